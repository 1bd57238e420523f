"""One sub-model of a split: cut down on what its classes need, and trained to answer as the whole does."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgevit.errors import EdgevitError
from edgevit.graph.axes import Role
from edgevit.graph.costs import count_macs
from edgevit.graph.program import Program
from edgevit.pruning.allocation import narrowest
from edgevit.pruning.dataset import Images, Indices, Labels
from edgevit.pruning.heads import weights_of_classifier, with_classes
from edgevit.pruning.loop import TrainingOptions
from edgevit.pruning.prune import Pruner
from edgevit.pruning.training import train

# The width of the whole, the widths of attention, and hidden widths; heads stay, as their number is small and
# the widths within them shrink as far.
ROLES: tuple[Role, ...] = ("residual", "query-key", "value", "hidden", "channels")
# Images of other classes for each one of its own that it is pruned with: a part has to tell them apart.
_OTHERS = 1.0
# What a part costs is estimated; where the estimate is too low the part is cut again, for less.
_TRIES = 4
# Of weights, and of features that are sent: float32.
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Budget:
    """What a part may cost.

    Attributes:
        macs: multiply-accumulates for one image.
        bytes: of its weights, as float32.
        macs_from: which option, of what, says so.
        bytes_from: likewise.
    """

    macs: int
    bytes: int
    macs_from: str
    bytes_from: str


@dataclass(frozen=True)
class Plan:
    """What a part is to be.

    Attributes:
        name: of the part.
        classes: that it answers for, ascending.
        budget: what it may cost.
        calibration: images to prune with.
        training: how it is trained afterwards.
        torch_device: where.
    """

    name: str
    classes: tuple[int, ...]
    budget: Budget
    calibration: int
    training: TrainingOptions
    torch_device: str

    @property
    def seed(self) -> int:
        """Of everything that is drawn by chance."""
        return self.training.seed


@dataclass(frozen=True, eq=False)
class Material:
    """What parts are made of.

    Attributes:
        program: the whole, as the bytes of its file.
        images: all there are.
        labels: (n,), the class of each.
        teacher: (n, classes) float32, the logits of the whole for each.
        features: (n, width) float32, what its classifier reads.
        learned_from: indices of those that parts may see.
    """

    program: bytes
    images: Images
    labels: Labels
    teacher: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32]
    learned_from: Indices


def prune_part(plan: Plan, material: Material) -> bytes:
    """The part, not trained yet.

    Returns:
        The bytes of its file.

    Raises:
        EdgevitError: when it cannot be made as small as its budget asks.
    """
    whole = unpacked(material.program)
    whole = Program(whole.exported, whole.card.model_copy(update={"name": f"{whole.card.name} {plan.name}"}))
    images = calibration_images(plan, material)
    pruner = Pruner(with_classes(whole, plan.classes), images, roles=ROLES, seed=plan.seed)
    return packed(_cut(pruner, plan), plan.name)


def calibration_images(plan: Plan, material: Material) -> npt.NDArray[np.float32]:
    """Images of the part's classes and as many others, `plan.calibration` of them at most, as float32."""
    indices = material.learned_from
    own = np.isin(material.labels[indices], plan.classes)
    mine, others = indices[own], indices[~own]
    rng = np.random.default_rng((plan.seed, *plan.classes))
    others = rng.choice(others, size=min(round(_OTHERS * len(mine)), len(others)), replace=False)
    # In no order, as folders are not: which images decide between ridges must not depend on their class.
    chosen = rng.permutation(np.concatenate([mine, others]))[: plan.calibration]
    return np.asarray(material.images[chosen], dtype=np.float32)


def train_part(pruned: bytes, checkpoint: Path | None, plan: Plan, material: Material) -> bytes:
    """The part, trained to answer and to see as the whole does.

    It learns from images of all classes, and its features are to tell all of them apart: the fusion reads
    those of every part.

    Args:
        pruned: what `prune_part` gave.
        checkpoint: a file from which interrupted training goes on; None where there is no place for it.
        plan: of the part.
        material: what it learns from.

    Returns:
        The bytes of its file.
    """
    chosen = material.learned_from
    teacher = torch.from_numpy(np.asarray(material.teacher[chosen]))
    trained = train(
        unpacked(pruned),
        torch.from_numpy(np.asarray(material.images[chosen])),
        torch.from_numpy(own_labels(material.labels[chosen], plan.classes)),
        teacher=grouped(teacher, plan.classes),
        features=torch.from_numpy(np.asarray(material.features[chosen])),
        classifier=weights_of_classifier(unpacked(material.program)),
        options=plan.training,
        checkpoint=checkpoint,
        torch_device=plan.torch_device,
    )
    return packed(without_durations(trained), plan.name)


def grouped(logits: Tensor, classes: Sequence[int]) -> Tensor:
    """Logits of some classes, and one for all others: their probabilities added up.

    Args:
        logits: (n, all classes).
        classes: those that stay apart.

    Returns:
        (n, classes + 1), or (n, classes) where there are no others.
    """
    kept = list(classes)
    others = [index for index in range(logits.shape[1]) if index not in set(kept)]
    rest = [logits[:, others].logsumexp(dim=1, keepdim=True)] if others else []
    return torch.cat([logits[:, kept], *rest], dim=1)


def own_labels(labels: Labels, classes: Sequence[int]) -> Labels:
    """The label that a part has for each class: its place among its own, or the one behind for all others."""
    found = np.full(len(labels), len(classes), dtype=np.int64)
    for place, label in enumerate(classes):
        found[labels == label] = place
    return found


def costs_of(program: Program) -> tuple[int, int]:
    """Multiply-accumulates for one image, and bytes of weights and buffers."""
    tensors = [*program.exported.state_dict.values(), *program.exported.constants.values()]
    return count_macs(program), sum(value.nbytes for value in tensors if isinstance(value, Tensor))


def packed(program: Program, name: str) -> bytes:
    """The bytes of a Program's file; the file's name is in them."""
    with tempfile.TemporaryDirectory() as folder:
        return program.save(Path(folder) / f"{name}.pt2").read_bytes()


def unpacked(data: bytes) -> Program:
    """The Program whose file has such bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.pt2"
        path.write_bytes(data)
        return Program.load(path)


def without_durations(made: Program) -> Program:
    """The same inputs give the same bytes: how much time and memory the last step took is not kept."""
    *before, last = made.card.steps
    measured = {
        name: value for name, value in last.measured.items() if name not in {"seconds", "peak_memory_mib"}
    }
    steps = (*before, last.model_copy(update={"measured": measured}))
    return Program(made.exported, made.card.model_copy(update={"steps": steps}))


def _cut(pruner: Pruner, plan: Plan) -> Program:
    """As much as the budget allows, by what the result costs and not by an estimate."""
    budget = plan.budget
    macs, size = float(budget.macs), float(budget.bytes)
    for _ in range(_TRIES):
        _check_narrowest(pruner, plan, macs=macs, parameters=size / FLOAT_BYTES)
        found = pruner.cut(pruner.widths_within(macs=macs, parameters=size / FLOAT_BYTES)).program
        found_macs, found_size = costs_of(found)
        if found_macs <= budget.macs and found_size <= budget.bytes:
            return found
        macs *= min(1.0, budget.macs / found_macs)
        size *= min(1.0, budget.bytes / found_size)
    raise _unmet(plan, found_macs, found_size)


def _check_narrowest(pruner: Pruner, plan: Plan, *, macs: float, parameters: float) -> None:
    least_macs, least_parameters = pruner.costs(narrowest(pruner.analysis.curves))
    if least_macs > macs or least_parameters > parameters:
        raise _unmet(plan, least_macs, least_parameters * FLOAT_BYTES)


def _unmet(plan: Plan, macs: int, size: int) -> EdgevitError:
    """Which budget is exceeded by a part that is as small as it gets, and by how much."""
    budget = plan.budget
    if size > budget.bytes:
        source, needed, allowed, unit = budget.bytes_from, size, budget.bytes, "bytes"
    else:
        source, needed, allowed, unit = budget.macs_from, macs, budget.macs, "multiply-accumulates"
    return EdgevitError(
        f"{source}: {plan.name} may have {allowed:,} {unit}; pruned as far as it can be it has {needed:,}, "
        f"{needed - allowed:,} too many"
    )
