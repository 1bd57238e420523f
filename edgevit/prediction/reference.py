"""The models by which a machine is measured: structures and shapes, no weights.

`benchmarks/reference_models.py` writes them.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgevit.errors import EdgevitError, closest

_FOLDER = Path(__file__).parent / "reference"

#: Of no family of models: kinds of operators that few models have, at several sizes.
ASSORTED = "assorted"

# Models of one family share shapes: what is learned from one says much of the other.
_FAMILIES = {
    ASSORTED: ASSORTED,
    "deit_tiny": "deit",
    "edgenext_xxs": "edgenext",
    "efficientformer_l1": "efficientformer",
    "efficientformerv2_s0": "efficientformer",
    "fastvit_t8": "fastvit",
    "levit_128s": "levit",
    "mobilevit_xxs": "mobilevit",
    "mobilevitv2_050": "mobilevit",
    "swin_tiny": "swin",
    "tiny_vit_5m": "tiny_vit",
}


@dataclass(frozen=True)
class Reference:
    """An artefact that machines are measured by.

    Attributes:
        model: its name.
        precision: "fp32" or "int8".
        suffix: ".onnx" or ".tflite".
    """

    model: str
    precision: str
    suffix: str

    @property
    def family(self) -> str:
        """Models that share shapes."""
        return _FAMILIES[self.model]

    @property
    def packed(self) -> Path:
        """The file that it is unpacked from."""
        return _FOLDER / f"{self.model}.{self.precision}{self.suffix}.xz"

    def unpack(self, folder: Path, name: str | None = None) -> Path:
        """Write the artefact into a folder, under its own name or another."""
        path = folder / f"{name or f'{self.model}.{self.precision}'}{self.suffix}"
        path.write_bytes(lzma.decompress(self.packed.read_bytes()))
        return path


def references(suffixes: Iterable[str], models: Sequence[str] | None = None) -> list[Reference]:
    """The artefacts of some formats.

    Args:
        suffixes: of the formats.
        models: names; None for all.

    Raises:
        EdgevitError: when there is no model of a name.
    """
    for name in models or ():
        if name not in _FAMILIES:
            raise EdgevitError(f"--models: {name!r} is no model of the suite; {closest(name, _FAMILIES)}")
    wanted = [
        Reference(model, precision, suffix)
        for suffix in suffixes
        for model in (models or _FAMILIES)
        for precision in ("fp32", "int8")
    ]
    return [each for each in wanted if each.packed.exists()]


def pace_of(suffix: str) -> Reference:
    """What takes turns with everything else: a small model of all that the others have."""
    return Reference("mobilevit_xxs", "fp32", suffix)
