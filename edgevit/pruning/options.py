"""How a classifier is split, as it was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from edgevit.errors import EdgevitError, closest
from edgevit.pruning.assignment import MOST_MODELS, Device
from edgevit.pruning.compensation import FEWEST_IMAGES
from edgevit.pruning.loop import Precision, TrainingOptions
from edgevit.pruning.prune import check_share
from edgevit.pruning.workers import Parallel, Workers

Grouping = Literal["best", "random", "confusion"]


@dataclass(frozen=True)
class SplitOptions:
    """How a classifier is split.

    Attributes:
        parts: how many sub-models; None for one for each device.
        devices: that run them; None where that is not known.
        keep: share of the multiply-accumulates, and of the bytes, that each part may have at most; None for
            1 / parts, or a half for one part. Where a device has less room, its part gets less.
        grouping: "random" subsets of the classes, by "confusion", or the "best" of both.
        epochs: of training with distillation after pruning; with 0 nothing but the fusion is trained.
        lr: learning rate of that training at its highest.
        flip: whether it mirrors half of the images left to right.
        crop_padding: pixels by which it shifts images at most.
        precision: of its arithmetic, "float32" or "bfloat16" where torch thinks it safe; weights are float32.
        calibration: images that each part is pruned with.
        held_out: share of the images on which accuracies are measured.
        seed: of everything that is drawn by chance.
        torch_device: where torch runs and trains, "cpu" or "cuda".
        parallel: whether parts are made by processes on this machine, "local", or on a cluster, "ray".
        workers: processes on this machine; None for as many as torch has threads.

    Raises:
        EdgevitError: naming the first that cannot be.
    """

    parts: int | None = None
    devices: tuple[Device, ...] | None = None
    keep: float | None = None
    grouping: Grouping = "best"
    epochs: int = 0
    lr: float = 3e-4
    flip: bool = False
    crop_padding: int = 0
    precision: Precision = "float32"
    calibration: int = 256
    held_out: float = 0.2
    seed: int = 0
    torch_device: str = "cpu"
    parallel: Parallel = "local"
    workers: int | None = None

    def __post_init__(self) -> None:
        if (self.parts is None) == (self.devices is None):
            raise EdgevitError("give either --parts N or --devices FILE: there is one part for each device")
        if self.parts is not None and self.parts < 1:
            raise EdgevitError(f"--parts: {self.parts} sub-models; one at least is needed")
        if self.devices is not None and not 1 <= len(self.devices) <= MOST_MODELS:
            raise EdgevitError(f"--devices: {len(self.devices)} are given; 1 to {MOST_MODELS} can be used")
        if self.keep is not None:
            check_share(self.keep)
        if self.grouping not in get_args(Grouping):
            raise EdgevitError(
                f"--grouping: {self.grouping!r} is unknown; {closest(self.grouping, get_args(Grouping))}"
            )
        if self.calibration < FEWEST_IMAGES:
            raise EdgevitError(
                f"calibration: {self.calibration} images to prune with; {FEWEST_IMAGES} at least"
            )
        if not 0 < self.held_out < 1:
            raise EdgevitError(f"held_out: must be above 0 and below 1, not {self.held_out:g}")

    @property
    def count(self) -> int:
        """How many parts there are to be."""
        return len(self.devices) if self.devices is not None else self.parts or 0

    @property
    def share(self) -> float:
        """Of the whole's costs, what each part may have."""
        return self.keep if self.keep is not None else 1 / max(self.count, 2)

    @property
    def training(self) -> TrainingOptions:
        """How parts are trained."""
        return TrainingOptions(
            epochs=self.epochs,
            lr=self.lr,
            flip=self.flip,
            crop_padding=self.crop_padding,
            precision=self.precision,
            seed=self.seed,
        )

    @property
    def crew(self) -> Workers:
        """Who makes the parts."""
        return Workers(self.parallel, self.workers, self.torch_device)

    @property
    def decisive(self) -> str:
        """Everything here that has a part in what comes out."""
        names = (
            *("parts", "devices", "keep", "grouping", "epochs", "lr", "flip", "crop_padding"),
            *("precision", "calibration", "held_out", "seed", "torch_device"),
        )
        return str({name: getattr(self, name) for name in names})
