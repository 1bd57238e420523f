"""One answer from the features of several sub-models, and still one where some of them are missing.

A small network reads the features of all parts end to end, as ED-ViT (arXiv 2410.11650) fuses its sub-models.
While it is trained parts are left out at random, so that a lost device costs accuracy and nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from edgevit.errors import EdgevitError
from edgevit.files import check_output, existing_file, staged_file
from edgevit.graph.card import first_fault
from edgevit.profiles.documents import Strict
from edgevit.progress import track
from edgevit.pruning.steps import (
    check_labels,
    check_options,
    chunks_of,
    generator_of,
    loss_of,
    optimizer_of,
    rate,
)

_VERSION = 1
_METADATA = "edgevit_fusion"

Positive = Annotated[int, Field(gt=0)]


@dataclass(frozen=True)
class FusionOptions:
    """How a fusion is trained.

    Attributes:
        hidden: width of its hidden layer.
        drop: probability with which each part of each image is left out; one part always stays.
        epochs: passes over the images.
        batch: images in a step.
        lr: learning rate of AdamW at its highest.
        weight_decay: of weights; biases and norms have none.
        warm_up: share of the steps in which the rate rises to `lr`; then it falls to 0 as a cosine does.
        alpha: share that the teacher has of the loss, where there is one; the labels have the rest.
        temperature: what the logits of teacher and fusion are divided by before they are compared.
        seed: of the weights at the start, the order of the images and what is left out.

    Raises:
        EdgevitError: naming the first that cannot be.
    """

    hidden: int = 256
    drop: float = 0.25
    epochs: int = 20
    batch: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05
    warm_up: float = 0.1
    alpha: float = 0.5
    temperature: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {
            "hidden": (self.hidden >= 1, "at least 1"),
            "drop": (0 <= self.drop < 1, "at least 0 and below 1"),
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch": (self.batch >= 1, "at least 1"),
            "lr": (0 < self.lr <= 1, "above 0 and at most 1"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "at least 0"),
            "warm_up": (0 <= self.warm_up < 1, "at least 0 and below 1"),
            "alpha": (0 <= self.alpha <= 1, "0 to 1"),
            "temperature": (0 < self.temperature < math.inf, "above 0"),
            "seed": (self.seed >= 0, "at least 0"),
        }
        check_options(self, limits)


class FusionNetwork(nn.Module):
    """Each part's features normalised, then end to end into a hidden layer and the classes.

    It takes one float32 tensor (n, sum of widths + parts): the features of all parts end to end and then,
    for each part, 1 where it is there and 0 where it is missing. What stands for the features of a missing
    part does not matter as long as it is finite. It returns (n, classes) logits.
    """

    def __init__(self, widths: Sequence[int], hidden: int, classes: int) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in self.widths)
        self.hidden = nn.Linear(sum(self.widths), hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, joined: Tensor) -> Tensor:
        """Logits, as the class says."""
        *parts, present = torch.split(joined, [*self.widths, len(self.widths)], dim=1)
        flags = torch.split(present, 1, dim=1)
        normed = [norm(part) * flag for norm, part, flag in zip(self.norms, parts, flags, strict=True)]
        logits: Tensor = self.head(functional.gelu(self.hidden(torch.cat(normed, dim=1))))
        return logits


class _Header(Strict):
    """What a fusion's file says of itself."""

    version: Literal[1]
    widths: Annotated[tuple[Positive, ...], Field(min_length=1)]
    hidden: Positive
    classes: Positive


@dataclass(frozen=True, eq=False)
class Fusion:
    """A trained fusion.

    Attributes:
        network: what computes; it can be exported as any module of one tensor.
    """

    network: FusionNetwork

    @property
    def widths(self) -> tuple[int, ...]:
        """How many features each part has."""
        return self.network.widths

    @property
    def classes(self) -> int:
        """How many classes it tells apart."""
        return self.network.head.out_features

    def joined(self, features: Sequence[Tensor | None]) -> Tensor:
        """What the network takes, from what the parts gave.

        Args:
            features: one (n, width) float32 tensor for each part, None for a part that is missing.

        Returns:
            (n, sum of widths + parts).

        Raises:
            EdgevitError: when there is not one for each part, its shape is another, or all are missing.
        """
        count = _count_of(features, self.widths)
        filled = [
            torch.zeros(count, width) if part is None else part
            for part, width in zip(features, self.widths, strict=True)
        ]
        present = torch.tensor([float(part is not None) for part in features])
        return torch.cat([*filled, present.expand(count, -1)], dim=1)

    def predict(self, features: Sequence[Tensor | None]) -> Tensor:
        """Logits (n, classes) from what is there of the features; see `joined`."""
        with torch.no_grad():
            logits: Tensor = self.network(self.joined(features))
        return logits

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write weights and sizes to one ``.safetensors`` file, whole or not at all.

        Raises:
            EdgevitError: when the file exists and `force` is false, or cannot be written.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            raise EdgevitError(f"{path}: a fusion is saved as .safetensors")
        check_output(path, force=force)
        header = _Header(
            version=_VERSION,
            widths=self.widths,
            hidden=self.network.hidden.out_features,
            classes=self.classes,
        )
        with staged_file(path) as staged:
            save_file(self.network.state_dict(), staged, metadata={_METADATA: header.model_dump_json()})
        return path

    @classmethod
    def load(cls, path: str | Path) -> Fusion:
        """Read a file that `save` wrote.

        Raises:
            EdgevitError: when it is missing, damaged, of another version or no fusion.
        """
        path = existing_file(path, "fusion")
        try:
            with safe_open(path, framework="pt") as stored:
                metadata = stored.metadata() or {}
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise EdgevitError(f"{path} is not a valid safetensors file, or is truncated") from error
        if _METADATA not in metadata:
            raise EdgevitError(f"{path} is no fusion: edgevit saved no sizes in it")
        header = _header(path, metadata[_METADATA])
        # No memory is taken for sizes that the tensors may not have.
        with torch.device("meta"):
            network = FusionNetwork(header.widths, header.hidden, header.classes)
        _check_tensors(path, network, tensors)
        network.load_state_dict(tensors, assign=True)
        return cls(_finished(network))


def train_fusion(
    features: Sequence[Tensor],
    labels: Tensor,
    *,
    classes: int,
    teacher: Tensor | None = None,
    options: FusionOptions | None = None,
) -> Fusion:
    """Train a fusion on what the sub-models gave for images of all classes.

    By their labels and, where it is given, by what the whole says of them, as in
    `edgevit.pruning.training.train`. The same seed gives the same bits on one processor with one number of
    threads.

    Args:
        features: one (n, width) float32 tensor for each part; widths may differ.
        labels: (n,) int64, the class of each image.
        classes: how many there are.
        teacher: (n, classes), the logits of the whole; None for none.
        options: rates and lengths.

    Raises:
        EdgevitError: when features, labels and teacher do not fit one another, or the loss becomes infinite
            or NaN.
    """
    options = options or FusionOptions()
    _check_features(features)
    check_labels(labels, len(features[0]), classes)
    if teacher is not None and tuple(teacher.shape) != (len(labels), classes):
        raise EdgevitError(f"teacher: its logits are {tuple(teacher.shape)}, not {(len(labels), classes)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = FusionNetwork([part.shape[1] for part in features], options.hidden, classes)
    optimizer = optimizer_of(list(network.parameters()), options.weight_decay)
    joined = torch.cat(list(features), dim=1)
    for epoch in track(range(options.epochs), "fusing", options.epochs):
        generator = generator_of(options.seed, epoch)
        chunks = list(chunks_of(len(joined), options.batch, generator))
        for index, chosen in enumerate(chunks):
            present = _present(len(chosen), len(features), options.drop, generator)
            logits = network(torch.cat([joined[chosen], present], dim=1))
            loss = loss_of(logits, labels[chosen], None if teacher is None else teacher[chosen], options)
            # Of the steps and one more: neither the first nor the last is wasted at a rate of 0.
            done = (epoch * len(chunks) + index + 1) / (options.epochs * len(chunks) + 1)
            _step(optimizer, loss, options.lr * rate(done, options.warm_up))
    if not all(bool(torch.isfinite(value).all()) for value in network.parameters()):
        raise EdgevitError(
            "lr: the loss was no number any more (NaN or infinity); take a learning rate below "
            f"{options.lr:g}, or features that are less large"
        )
    return Fusion(_finished(network))


def _step(optimizer: torch.optim.Optimizer, loss: Tensor, lr: float) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()


def _present(count: int, parts: int, drop: float, generator: torch.Generator) -> Tensor:
    """Which parts stay, 1 or 0: (count, parts), one at least in each row."""
    drawn = torch.rand(count, parts, generator=generator)
    return ((drawn >= drop) | (drawn == drawn.amax(dim=1, keepdim=True))).float()


def _finished(network: FusionNetwork) -> FusionNetwork:
    network.requires_grad_(requires_grad=False)
    network.eval()
    return network


def _check_features(features: Sequence[Tensor]) -> None:
    if not features or len(features[0]) == 0:
        raise EdgevitError("features: there are none; a fusion needs one part and one image at least")
    for place, part in enumerate(features):
        if part.ndim != 2 or len(part) != len(features[0]) or part.dtype != torch.float32:
            raise EdgevitError(
                f"features: those of part {place} are {tuple(part.shape)} {part.dtype}; "
                f"({len(features[0])}, width) float32 are needed"
            )
        if not bool(torch.isfinite(part).all()):
            raise EdgevitError(f"features: some of part {place} are not numbers (NaN or infinity)")


def _count_of(features: Sequence[Tensor | None], widths: Sequence[int]) -> int:
    """For how many images they are, if they fit the widths."""
    if len(features) != len(widths):
        raise EdgevitError(f"features: {len(features)} parts are given, the fusion reads {len(widths)}")
    counts = [len(part) for part in features if part is not None]
    if not counts:
        raise EdgevitError("features: every part is missing; one at least is needed")
    for place, (part, width) in enumerate(zip(features, widths, strict=True)):
        if part is not None and tuple(part.shape) != (counts[0], width):
            raise EdgevitError(
                f"features: those of part {place} are {tuple(part.shape)}, not {(counts[0], width)}"
            )
    return counts[0]


def _header(path: Path, text: str) -> _Header:
    try:
        data: Any = json.loads(text)
    except ValueError as error:
        raise EdgevitError(f"{path} is damaged: its sizes are not JSON") from error
    version = data.get("version") if isinstance(data, dict) else None
    if version != _VERSION:
        raise EdgevitError(f"{path} is a fusion of version {version}; this edgevit reads version {_VERSION}")
    try:
        return _Header.model_validate(data)
    except ValidationError as error:
        raise EdgevitError(f"{path}: its sizes are not valid: {first_fault(error)}") from error


def _check_tensors(path: Path, network: FusionNetwork, tensors: dict[str, Tensor]) -> None:
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    wrong = next((name for name in expected | found if expected.get(name) != found.get(name)), None)
    if wrong is not None:
        is_found, is_right = found.get(wrong, "missing"), expected.get(wrong, "expected")
        raise EdgevitError(f"{path} is damaged: {wrong} is {is_found}, not {is_right}")
    for name, value in tensors.items():
        if value.dtype != torch.float32 or not bool(torch.isfinite(value).all()):
            raise EdgevitError(f"{path} is damaged: {name} is not all finite float32 numbers")
