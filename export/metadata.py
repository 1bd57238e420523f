"""What stands beside an artefact, and inside it: the card, and how the file was made."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from edgevit.errors import EdgevitError
from edgevit.graph.card import Card, first_fault

METADATA_FILE = "metadata.json"
# The key under which formats with free-form metadata carry the card's JSON.
CARD_KEY = "edgevit.card"

# "int8": quantized, its integers stored as int8 or less; the options say how many bits, and what floats are.
Precision = Literal["fp32", "fp16", "int8"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorInfo(_Frozen):
    """An input or output; a dimension is a number, or a name where it is dynamic."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


class ArtefactInfo(_Frozen):
    """One exported file or package."""

    format: str
    precision: Precision
    sha256: str
    bytes: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    options: dict[str, JsonValue]
    tools: dict[str, str]


class Metadata(_Frozen):
    """``metadata.json`` of an export folder: the card, and every artefact by file name."""

    version: Literal[1] = 1
    card: Card
    artefacts: dict[str, ArtefactInfo]

    def write(self, path: Path) -> None:
        """Write as indented JSON."""
        path.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Metadata:
        """Read and validate.

        Raises:
            EdgevitError: when it is not metadata of this version, or has unknown keys.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise EdgevitError(f"{path} is not valid: {first_fault(error)}") from error


def required_card(card: Card | None, path: Path) -> Card:
    """The card that was found inside an artefact.

    Raises:
        EdgevitError: when there is none, the file being of another tool's making.
    """
    if card is None:
        raise EdgevitError(
            f"{path} has no edgevit card, so how its images are prepared is unknown; "
            "export it with `edgevit export`"
        )
    return card


def check_inputs(card: Card | None, count: int, path: Path) -> None:
    """Check that an artefact takes as many tensors as its card names, or one image where it has no card.

    Raises:
        EdgevitError: when it takes more or fewer.
    """
    if card is None and count != 1:
        raise EdgevitError(f"{path} has {count} inputs; one image tensor is expected")
    if card is not None and count != len(card.inputs):
        raise EdgevitError(f"{path} has {count} inputs, its card names {len(card.inputs)}")
