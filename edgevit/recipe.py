"""A recipe: what `compress` was asked for, in a file, so that it can be read, changed and repeated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ModelWrapValidatorHandler, ValidationError, ValidationInfo, model_validator

from edgevit.errors import EdgevitError
from edgevit.profiles.documents import (
    PLACED_BY_CALLER,
    Document,
    Strict,
    Text,
    dotted,
    first_problem,
    read_document,
)

RECIPE_VERSION = 1

_DOCUMENT = Document(noun="recipe", version=RECIPE_VERSION, example="quantize:", depth=5)

LevelName = Literal["weights", "dynamic", "inputs", "integer"]


class QuantizeRecipe(Strict):
    """The options of a quantization, named as on the command line.

    `layers` is there where placements were measured: the level of each operation, by node name, which is
    then not measured again. So is `gains`, the milliseconds that each layer saves.

    Raises:
        EdgevitError: naming the first option that cannot be, and why.
    """

    precision: Text = "w8a8"
    engine: Text = "edgevit"
    method: Text = "reconstruct"
    images: Annotated[int, Field(ge=1)] = 256
    granularity: Text = "auto"
    scheme: Text = "auto"
    placement: Text | None = None
    to: Text = "onnx"
    layers: dict[Text, LevelName] | None = None
    gains: dict[Text, Annotated[float, Field(gt=0)]] | None = None
    exclude: tuple[Text, ...] = ()
    max_drop: Annotated[float, Field(ge=0)] | None = None
    fallback: Text | None = None
    spare: bool = True
    iterations: Annotated[int, Field(ge=1)] = 200
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="wrap")
    @classmethod
    def _refused_in_a_sentence(
        cls, data: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            if info.context == PLACED_BY_CALLER:
                raise
            loc, problem = first_problem(error)
            place = f"QuantizeRecipe: {dotted(loc)}" if loc else "QuantizeRecipe"
            raise EdgevitError(f"{place}: {problem}") from error

    @classmethod
    def of_options(cls, options: Mapping[str, Any]) -> QuantizeRecipe:
        """From options as they were given; the others keep their defaults.

        Raises:
            EdgevitError: naming the first option that cannot be, and why.
        """
        try:
            return cls.model_validate(dict(options), context=PLACED_BY_CALLER)
        except ValidationError as error:
            loc, problem = first_problem(error)
            option = "quantize" if loc[0] == "precision" else str(loc[0]).replace("_", "-")
            raise EdgevitError(f"--{option}: {problem}") from error


class Recipe(Strict):
    """A recipe file."""

    version: Literal[1] = 1
    quantize: QuantizeRecipe

    def write(self, path: Path) -> None:
        """Write as YAML."""
        text = yaml.safe_dump(self.model_dump(mode="json", exclude_none=True), sort_keys=False)
        path.write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """Read a file.

        Raises:
            EdgevitError: naming the file, the line and the key of the first thing that is wrong.
        """
        return read_document(Path(path), cls, _DOCUMENT)
