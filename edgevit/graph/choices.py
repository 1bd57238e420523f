"""What the user says about a model, and the model as its source gives it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError

from edgevit.errors import EdgevitError, closest
from edgevit.files import existing_file, sha256_of
from edgevit.graph.card import INTERPOLATIONS, Preprocessing, first_fault
from edgevit.graph.weights import digest, load_into, read_weights

RANDOM = "random"


@dataclass(frozen=True)
class Choices:
    """What the user says about a model; None leaves it to the model's own configuration.

    Attributes:
        weights: a weights file, ``"random"`` for an untrained model, or None for the source's own.
        num_classes: size of the classifier.
        input_size: (height, width) in pixels.
        resize: short edge in pixels, (height, width), or "none"; applied before the centre crop.
        interpolation: one of `edgevit.graph.card.INTERPOLATIONS`.
        mean: per-channel mean of images scaled to 0..1.
        std: per-channel standard deviation of the same.
        labels: class names in the order of the logits.
        frames: frames of a clip, for a video classifier.
    """

    weights: str | Path | None = None
    num_classes: int | None = None
    input_size: tuple[int, int] | None = None
    resize: int | tuple[int, int] | str | None = None
    interpolation: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labels: tuple[str, ...] | None = None
    frames: int | None = None

    def __post_init__(self) -> None:
        if self.num_classes is not None and self.num_classes < 1:
            raise EdgevitError(f"--num-classes: {self.num_classes} is not a number of classes")
        if self.interpolation is not None and self.interpolation not in INTERPOLATIONS:
            raise EdgevitError(
                f"--interpolation: {self.interpolation!r} is unknown; "
                f"{closest(self.interpolation, INTERPOLATIONS)}"
            )

    @property
    def is_random(self) -> bool:
        """Whether an untrained model is wanted."""
        return self.weights == RANDOM


@dataclass(frozen=True)
class Source:
    """A model ready to be exported, with what its configuration says about it."""

    name: str
    module: torch.nn.Module
    preprocessing: Preprocessing
    weights: str
    weights_sha256: str
    labels: tuple[str, ...] | None = None
    licence: str | None = None


def refine(base: Preprocessing, choices: Choices) -> Preprocessing:
    """The model's preprocessing with the user's choices in place of its own.

    Raises:
        EdgevitError: when the choices contradict each other.
    """
    changes: dict[str, object] = {
        "interpolation": choices.interpolation,
        "mean": choices.mean,
        "std": choices.std,
        "resize_to": choices.resize,
        "frames": choices.frames,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    if changes.get("resize_to") == "none":
        changes["resize_to"] = None
    try:
        return Preprocessing.model_validate({**base.model_dump(), **changes})
    except ValidationError as error:
        raise EdgevitError(f"the preprocessing options do not fit together: {first_fault(error)}") from error


def read_labels(path: str | Path) -> tuple[str, ...]:
    """Class names, one a line, in the order of the logits.

    Raises:
        EdgevitError: when the file is missing, empty or not UTF-8 text.
    """
    path = existing_file(path, "--labels")
    try:
        labels = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise EdgevitError(f"--labels: {path} is not UTF-8 text, one class name a line") from error
    if not labels or not all(labels):
        line = labels.index("") + 1 if labels else 1
        raise EdgevitError(f"--labels: line {line} of {path} is empty; every line names one class")
    return labels


def declared_preprocessing(why: str, choices: Choices) -> Preprocessing:
    """Preprocessing from the user's choices alone, for a model that brings none.

    Without `choices.resize` the short edge is resized to the input's.

    Raises:
        EdgevitError: naming the options that are needed; `why` begins the sentence.
    """
    needed = {"--input-size": choices.input_size, "--mean": choices.mean, "--std": choices.std}
    absent = [option for option, value in needed.items() if value is None]
    if choices.input_size is None or choices.mean is None or choices.std is None:
        raise EdgevitError(f"{why}, so how its images are prepared must be said: pass {', '.join(absent)}")
    base = Preprocessing(input_size=choices.input_size, resize_to=min(choices.input_size))
    return refine(base, choices)


def given_weights(module: torch.nn.Module, choices: Choices, otherwise: str) -> tuple[str, str]:
    """Load the user's weights file, if any; what is in the module now, and its sha256."""
    if choices.weights is not None and not choices.is_random:
        path = Path(choices.weights)
        load_into(module, read_weights(path), str(path))
        return path.name, sha256_of(path)
    return (RANDOM if choices.is_random else otherwise), digest(module.state_dict().items())
