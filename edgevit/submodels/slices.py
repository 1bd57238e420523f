"""Named slices: which submodels of a nested Program are worth a name, and what was measured of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field

from edgevit.errors import EdgevitError
from edgevit.files import staged_file
from edgevit.graph.program import Program
from edgevit.graph.weights import digest
from edgevit.profiles.documents import Document, Strict, Text, read_document
from edgevit.submodels.branches import Replacement

_DOCUMENT = Document(noun="file of slices", version=1, example="slices:", depth=4)

Positive = Annotated[int, Field(gt=0)]
Percent = Annotated[float, Field(ge=0, le=100)]


class Slice(Strict):
    """One submodel.

    Attributes:
        name: of it.
        widths: units of each axis by its name, and what stands in for residual branches; all else is whole.
        parameters: trainable values.
        macs: multiply-accumulates for one image.
        agreement: percent of images for which it finds the class that its parent finds.
        divergence: KL(parent || submodel) of the predictions, in nats.
        accuracy: top-1 percent; absent without labels.
        neighbour: top-1 percent of the nearest neighbour among the parent's features; likewise, and where the
            submodel has fewer.
    """

    name: Text
    widths: dict[Text, Positive | Replacement]
    parameters: Positive
    macs: Positive
    agreement: Percent
    divergence: float
    accuracy: Percent | None = None
    neighbour: Percent | None = None


class Slices(Strict):
    """The slices of one nested Program.

    Attributes:
        version: of this format.
        parent: SHA-256 of the Program's weights.
        images: how many were measured on.
        slices: the smallest first.
    """

    version: Literal[1] = 1
    parent: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    images: Positive
    slices: tuple[Slice, ...]

    def named(self, name: str) -> Slice | None:
        """The slice of a name; None where there is none."""
        return next((one for one in self.slices if one.name == name), None)

    def write(self, path: Path) -> None:
        """Write as YAML, whole or not at all."""
        text = yaml.safe_dump(self.model_dump(mode="json", exclude_none=True), sort_keys=False)
        with staged_file(path) as staged:
            staged.write_text(text, encoding="utf-8")


def slices_beside(program: Path) -> Path:
    """Where the slices of a Program's file are written."""
    return program.with_name(f"{program.stem}.slices.yaml")


def read_slices(path: Path, program: Program) -> Slices:
    """Read the slices of a nested Program.

    Raises:
        EdgevitError: naming the file and what is wrong, or that it is of another Program.
    """
    found = read_document(path, Slices, _DOCUMENT)
    if found.parent != weights_of(program):
        raise EdgevitError(f"{path}: its slices are of another model than {program.card.name} as it is here")
    return found


def weights_of(program: Program) -> str:
    """What tells Programs of one graph apart."""
    return digest(program.exported.state_dict.items())
