"""What travels with a model: how its images are prepared, what its outputs mean, where it came from."""

from __future__ import annotations

import math
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from edgevit.errors import EdgevitError

Interpolation = Literal[
    "nearest", "bilinear", "bicubic", "lanczos", "opencv-linear", "opencv-cubic", "opencv-area"
]
INTERPOLATIONS: tuple[str, ...] = get_args(Interpolation)

# The input of whatever takes images.
IMAGE = "image"
# The step that makes a stage of a program.
CUT = "cut"

Positive = Annotated[int, Field(gt=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Preprocessing(_Frozen):
    """How an image file becomes the network's input.

    Decode to RGB (or grey, where `mean` has one value), resize to `resize_to` (an int is the short
    edge, a pair is exactly height x width, None is no resizing), centre-crop to `input_size`, divide
    by 255, subtract `mean`, divide by `std`, lay out as (channels, height, width) float32.

    The first four interpolations are Pillow's, low-pass filtered when shrinking: what timm's and
    transformers' model cards mean by these words. The ``opencv-`` ones are `cv2.resize`'s.

    `frames` is None for images. A video classifier takes clips of that many frames, each prepared as
    an image and stacked in front: (frames, channels, height, width).
    """

    frames: Positive | None = None
    input_size: tuple[Positive, Positive]
    resize_to: Positive | tuple[Positive, Positive] | None
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    @model_validator(mode="after")
    def _channels_agree(self) -> Preprocessing:
        if len(self.mean) not in (1, 3):
            raise ValueError(f"mean has {len(self.mean)} values; an image has 1 or 3 channels")
        if len(self.std) != len(self.mean):
            raise ValueError(f"std has {len(self.std)} values where mean has {len(self.mean)}")
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}; every value must be above 0")
        return self

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for RGB."""
        return len(self.mean)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of one prepared image, the frames before it for a clip."""
        image = (self.channels, *self.input_size)
        return image if self.frames is None else (self.frames, *image)

    @classmethod
    def cropped(
        cls,
        input_size: tuple[int, int],
        *,
        crop_fraction: float,
        interpolation: Interpolation,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> Preprocessing:
        """The evaluation transform of a card that gives a crop fraction (timm's ``crop_pct``).

        The short edge becomes ``floor(short input edge / crop_fraction)``, as in timm's
        ``transforms_imagenet_eval``; unequal input edges are each divided and resized to exactly.
        """
        height, width = (math.floor(edge / crop_fraction) for edge in input_size)
        resize_to = height if height == width else (height, width)
        return cls(
            input_size=input_size, resize_to=resize_to, interpolation=interpolation, mean=mean, std=std
        )

    def describe(self) -> str:
        """One line for people.

        >>> Preprocessing(input_size=(224, 224), resize_to=256).describe()
        'short edge to 256 (bicubic), centre crop 224x224, mean 0.485 0.456 0.406, std 0.229 0.224 0.225'
        """
        match self.resize_to:
            case None:
                resize = "no resizing"
            case int(edge):
                resize = f"short edge to {edge} ({self.interpolation})"
            case (height, width):
                resize = f"resize to {height}x{width} ({self.interpolation})"
        crop = "" if self.resize_to == self.input_size else "centre crop {}x{}, ".format(*self.input_size)
        mean, std = (" ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        clip = "" if self.frames is None else f"clips of {self.frames} frames, each: "
        return f"{clip}{resize}, {crop}mean {mean}, std {std}"


class Provenance(_Frozen):
    """Where a model came from.

    `weights_sha256` is of the weights file where one was given, otherwise of the tensors themselves
    (see `edgevit.graph.weights.digest`).
    """

    source: str
    weights: str
    weights_sha256: str
    tools: dict[str, str]


class Step(_Frozen):
    """One move made on the graph: its name, its options and what it measured."""

    name: str
    options: dict[str, JsonValue] = {}
    measured: dict[str, JsonValue] = {}


class Card(_Frozen):
    """Everything about a model that is not its graph or its weights.

    The inputs of a stage of a model (`edgevit.graph.stages`) are the tensors that it takes, by the names that
    they have in the whole; its preprocessing is the whole's, for whoever hands over the image.
    """

    version: Literal[1] = 1
    name: str = Field(min_length=1)
    preprocessing: Preprocessing
    labels: tuple[str, ...] | None = None
    licence: str | None = None
    inputs: tuple[str, ...] = (IMAGE,)
    outputs: tuple[str, ...] = ("logits",)
    provenance: Provenance
    steps: tuple[Step, ...] = ()

    def with_step(self, step: Step) -> Card:
        """The card of the program that `step` made."""
        return self.model_copy(update={"steps": (*self.steps, step)})

    @property
    def stage(self) -> str | None:
        """Which stage of a model it is, as in "2 of 3"; None for a whole one."""
        cut = self._cut()
        return None if cut is None else f"{cut.options['stage']} of {cut.options['of']}"

    @property
    def gives_logits(self) -> bool:
        """Whether its first output are logits: of a model, or of the last of its stages."""
        cut = self._cut()
        return cut is None or cut.options["stage"] == cut.options["of"]

    def _cut(self) -> Step | None:
        return next((step for step in self.steps if step.name == CUT), None)

    def check_whole(self) -> None:
        """Check that the program takes images and gives logits.

        Raises:
            EdgevitError: when it is a stage of another, naming which.
        """
        if self.stage is not None:
            raise EdgevitError(
                f"{self.name}: this is stage {self.stage} of it ({', '.join(self.inputs)} -> "
                f"{', '.join(self.outputs)}), which does not take images and give logits; take the whole"
            )

    @classmethod
    def from_json(cls, text: str | bytes, origin: str) -> Card:
        """Read a card; `origin` names the file it came from in errors.

        Raises:
            EdgevitError: when it is not a card of this version, or has unknown keys.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise EdgevitError(f"{origin}: its card is not valid: {first_fault(error)}") from error


def first_fault(error: ValidationError) -> str:
    """A pydantic error's first complaint in one line: where, and what is wrong."""
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"])
    return f"{where}: {fault['msg']}" if where else fault["msg"]
