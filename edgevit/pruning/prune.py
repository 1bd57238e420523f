"""Structured pruning: a smaller Program to a budget, its layers fitted to what they gave before."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from pydantic import JsonValue

from edgevit.errors import EdgevitError, closest
from edgevit.graph.axes import Axis, Dimensions, Role
from edgevit.graph.card import Step
from edgevit.graph.costs import Costs
from edgevit.graph.dimensions import Dim
from edgevit.graph.predictions import divergence, predict
from edgevit.graph.program import Array, Program
from edgevit.graph.running import Runner, spread
from edgevit.graph.slicing import slice_axes
from edgevit.pruning.allocation import Widths, allocate, narrowest
from edgevit.pruning.analysis import analyse
from edgevit.pruning.compensation import FEWEST_IMAGES, compensate
from edgevit.pruning.regression import Compensated

Budget = Literal["macs", "parameters"]

# The width of the whole network touches every layer: it goes where all else is not enough, and is asked for.
DEFAULT_ROLES: tuple[Role, ...] = ("query-key", "value", "hidden", "channels")
# Images on which the divergence is reported.
_JUDGED = 64


@dataclass(frozen=True)
class PrunedAxis:
    """What became of one axis.

    Attributes:
        name: of the axis.
        role: what it is to the model.
        size: units before.
        kept: units after.
        loss: divergence in nats that was expected of it alone.
    """

    name: str
    role: Role
    size: int
    kept: int
    loss: float


@dataclass(frozen=True)
class PruneResult:
    """A smaller Program, and what it took.

    Attributes:
        program: the smaller one.
        axes: all that could shrink.
        layers: what compensation did.
        macs: multiply-accumulates for one image, before and after.
        parameters: stored numbers, before and after.
        divergence: KL(whole || small) of the predictions on the images, in nats, before and after layers were
            fitted.
        images: how many were used.
        seconds: taken.
    """

    program: Program
    axes: tuple[PrunedAxis, ...]
    layers: tuple[Compensated, ...]
    macs: tuple[int, int]
    parameters: tuple[int, int]
    divergence: tuple[float, float]
    images: int
    seconds: float


class Pruner:
    """A Program that was looked at once, and can be cut to any size.

    Args:
        program: a float Program with a dynamic batch, whose first result are logits.
        images: (n, channels, height, width) float32, prepared as the card says; 16 at least, 256 are usual.
        roles: of the axes that may shrink.
        seed: of what is drawn by chance.

    Raises:
        EdgevitError: when a role is unknown, images are too few, of another shape or not finite, no axis may
            shrink, or the predictions are not finite.
    """

    def __init__(
        self,
        program: Program,
        images: Array,
        *,
        roles: Collection[Role] = DEFAULT_ROLES,
        seed: int = 0,
    ) -> None:
        check_roles(roles)
        check_program(program)
        check_images(program, images)
        started = time.perf_counter()
        self.program, self.roles, self.seed = program, tuple(roles), seed
        self.images = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
        self.expected = predict(Runner(program), spread(self.images, _JUDGED))
        if not bool(torch.isfinite(self.expected).all()):
            raise EdgevitError(f"{program.card.name} gives NaN or infinite predictions on the images")
        self.analysis = analyse(program, self.images, roles=roles, seed=seed)
        if not self.analysis.curves:
            raise EdgevitError(
                f"{program.card.name} has no axis of role {' or '.join(roles)} that may shrink"
            )
        dimensions = Dimensions(self.analysis.program)
        self._leaves, self._costs = dimensions.axes(), Costs(dimensions)
        self._seconds = time.perf_counter() - started

    def widths(self, keep: float, of: Budget = "macs") -> Widths:
        """How many units of each axis stay when a share of a cost may be left.

        Raises:
            EdgevitError: when the share is none, or cannot be met.
        """
        _check_budget(keep, of)
        counted = self._counted(of)
        try:
            return allocate(
                self.analysis.curves, lambda widths: counted(self._choices(widths)), keep * counted({})
            )
        except EdgevitError as error:
            raise EdgevitError(f"--keep {keep:g} of {of}: {error}") from error

    def costs(self, widths: Widths) -> tuple[int, int]:
        """Multiply-accumulates for one image, and stored numbers, of the program of such widths."""
        choices = self._choices(widths)
        return self._costs.macs(choices), self._costs.parameters(choices)

    def widths_within(self, *, macs: float, parameters: float) -> Widths:
        """How many units of each axis stay when neither cost may be above its budget.

        Args:
            macs: multiply-accumulates for one image.
            parameters: stored numbers.

        Raises:
            EdgevitError: when the narrowest costs more.
        """

        def shares(widths: Widths) -> tuple[float, float]:
            found = self.costs(widths)
            return found[0] / macs, found[1] / parameters

        # Both have a price: at that of the larger one alone, what costs only of the other would be for free.
        return allocate(
            self.analysis.curves,
            lambda widths: max(shares(widths)),
            1.0,
            priced=lambda widths: sum(shares(widths)),
        )

    def least(self, of: Budget = "macs") -> float:
        """The smallest share of a cost that can be left."""
        counted = self._counted(of)
        return counted(self._choices(narrowest(self.analysis.curves))) / counted({})

    def _counted(self, of: Budget) -> Callable[[Mapping[Dim, torch.Tensor]], int]:
        return {"macs": self._costs.macs, "parameters": self._costs.parameters}[of]

    def sliced(self, widths: Widths) -> Program:
        """The program of such widths, its layers as they were."""
        return slice_axes(self.analysis.program, self._kept(widths))

    def cut(self, widths: Widths, *, compensation: bool = True) -> PruneResult:
        """The program of such widths, its layers fitted to what they gave before.

        Args:
            widths: how many units of each axis stay.
            compensation: whether layers are fitted.
        """
        started, small = time.perf_counter(), self.sliced(widths)
        layers: tuple[Compensated, ...] = ()
        before = after = self._divergence(small)
        if compensation:
            small, layers = compensate(self.analysis.program, small, self._kept(widths), self.images)
            after = self._divergence(small)
        choices = self._choices(widths)
        result = PruneResult(
            program=small,
            axes=tuple(
                PrunedAxis(axis.name, axis.role, axis.size, widths[axis], curve.loss(widths[axis]))
                for axis, curve in self.analysis.curves.items()
            ),
            layers=layers,
            macs=(self._costs.macs({}), self._costs.macs(choices)),
            parameters=(self._costs.parameters({}), self._costs.parameters(choices)),
            divergence=(before, after),
            images=len(self.images),
            seconds=self._seconds + time.perf_counter() - started,
        )
        return replace(result, program=self._with_step(result, compensation=compensation))

    def _divergence(self, small: Program) -> float:
        """KL(whole || small) of the predictions, in nats."""
        found = predict(Runner(small), spread(self.images, _JUDGED))
        return float(divergence(self.expected.double(), found.double()))

    def _kept(self, widths: Widths) -> dict[Axis, list[int]]:
        return {axis: self.analysis.curves[axis].kept(width) for axis, width in widths.items()}

    def _choices(self, widths: Widths) -> dict[Dim, torch.Tensor]:
        """As many units as stay, whichever: costs do not tell them apart."""
        return {self._leaves[axis]: torch.arange(width) for axis, width in widths.items()}

    def _with_step(self, result: PruneResult, *, compensation: bool) -> Program:
        """The program with all of pruning as one step on its card, in place of the rewrites' own."""
        options: dict[str, JsonValue] = {
            "roles": list(self.roles),
            "compensation": compensation,
            "seed": self.seed,
        }
        measured: dict[str, JsonValue] = {
            "widths": {axis.name: axis.kept for axis in result.axes if axis.kept < axis.size},
            "macs": list(result.macs),
            "parameters": list(result.parameters),
            "divergence": round(result.divergence[1], 6),
            "images": result.images,
        }
        card = self.program.card.with_step(Step(name="prune", options=options, measured=measured))
        return Program(result.program.exported, card)


def prune(
    program: Program,
    images: Array,
    *,
    keep: float = 0.5,
    of: Budget = "macs",
    roles: Collection[Role] = DEFAULT_ROLES,
    compensation: bool = True,
    seed: int = 0,
) -> PruneResult:
    """Take units from a Program until it costs a share of what it did, and let the rest make up for them.

    Which units go, and how many from each axis, follows from their effect on the predictions
    (`edgevit.pruning.analysis`); no labels are needed and nothing is trained.

    Args:
        program: as for `Pruner`.
        images: likewise.
        keep: the share of the cost that may be left, above 0 and below 1.
        of: "macs", multiply-accumulates, or "parameters".
        roles: of the axes that may shrink.
        compensation: whether layers are fitted to what they gave before.
        seed: of what is drawn by chance.

    Raises:
        EdgevitError: when an option is out of range, the program or the images are unusable, or the budget
            cannot be met.
    """
    _check_budget(keep, of)
    pruner = Pruner(program, images, roles=roles, seed=seed)
    return pruner.cut(pruner.widths(keep, of), compensation=compensation)


def check_share(keep: float) -> None:
    """Refuse what is no share of a cost.

    Raises:
        EdgevitError: when it is not above 0 and below 1.
    """
    if not 0 < keep < 1:
        raise EdgevitError(f"--keep: {keep:g} is no share; give a number between 0 and 1, such as 0.5")


def _check_budget(keep: float, of: str) -> None:
    check_share(keep)
    if of not in get_args(Budget):
        raise EdgevitError(f"--of: {of!r} is unknown; {closest(of, get_args(Budget))}")


def check_roles(roles: Collection[str]) -> None:
    """Refuse what are no roles.

    Raises:
        EdgevitError: when there are none, or one is unknown.
    """
    if not roles:
        raise EdgevitError(f"--role: none is given; known: {', '.join(get_args(Role))}")
    for role in roles:
        if role not in get_args(Role):
            raise EdgevitError(f"--role: {role!r} is unknown; {closest(role, get_args(Role))}")


def check_program(program: Program) -> None:
    """Refuse what cannot be pruned.

    Raises:
        EdgevitError: when its batch is fixed, or it is quantized.
    """
    name = program.card.name
    if program.batch is not None:
        raise EdgevitError(
            f"{name} was captured for a batch of {program.batch}; capture it with a dynamic batch"
        )
    if any(step.name == "quantize" for step in program.card.steps):
        raise EdgevitError(f"{name} is quantized: prune the float Program, and quantize what comes of it")


def check_images(program: Program, images: Array) -> None:
    """Refuse images that a program cannot be pruned with.

    Raises:
        EdgevitError: when they are too few, of another shape or not finite.
    """
    name, shape = program.card.name, tuple(program.input_shape[1:])
    if len(images) < FEWEST_IMAGES:
        raise EdgevitError(
            f"{len(images)} images to prune {name} with: give {FEWEST_IMAGES} at least, 256 are usual"
        )
    if tuple(images.shape[1:]) != shape:
        raise EdgevitError(f"images of shape {tuple(images.shape[1:])}; {name} takes {shape}")
    if not np.isfinite(images).all():
        raise EdgevitError(f"the images to prune {name} with hold NaN or infinite values")
