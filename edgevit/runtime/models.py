"""A plan's model, made ready to run: the lanes of each plan of the file, and an answer of what they give."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from edgevit.errors import EdgevitError
from edgevit.files import sha256_of
from edgevit.graph.card import Card
from edgevit.graph.cutting import Cut, find_cuts
from edgevit.graph.program import Program
from edgevit.graph.stages import stages
from edgevit.planning.plan_file import PlanEntry, PlanFile, TaskEntry
from edgevit.pruning.split import MANIFEST, Split, read_split
from edgevit.runtime.lanes import Lane, Layout, Piece, Step
from edgevit.runtime.pieces import Workshop
from edgevit.runtime.wire import Array

#: What each lane gave, by its number.
Gathered = Mapping[int, Mapping[str, Array]]


class Model(Protocol):
    """What is run.

    Attributes:
        card: of the whole.
        shape: of one item.
        outputs: sizes behind the batch, by name.
        origin: file of the Program, or manifest of the split.
        sha256: of that file.
    """

    card: Card
    shape: tuple[int, ...]
    outputs: dict[str, tuple[int, ...]]
    origin: Path
    sha256: str

    def layout(self, entry: PlanEntry) -> Layout:
        """The lanes of a plan, its pieces exported."""

    def answer(self, gathered: Gathered) -> dict[str, Array]:
        """The outputs, from what lanes gave."""


def open_model(plan: PlanFile, origin: Path, folder: Path) -> Model:
    """The model of a plan.

    Args:
        plan: the file.
        origin: where the model is.
        folder: that pieces are exported to.

    Raises:
        EdgevitError: when the model is missing, or is not the one that was planned.
    """
    if origin.name == MANIFEST or origin.is_dir():
        directory = origin if origin.is_dir() else origin.parent
        split = read_split(directory)
        manifest = directory / MANIFEST
        return EnsembleModel(plan, split, Workshop(folder, sha256_of(manifest), plan.items), manifest)
    program = Program.load(origin)
    return ChainModel(plan, program, Workshop(folder, sha256_of(origin), plan.items), origin)


class ChainModel:
    """A Program: whole, as replicas, or cut into stages.

    Args:
        plan: that it is run by.
        program: what is run.
        workshop: that makes its pieces.
        origin: its file.

    Raises:
        EdgevitError: when it has other cuts than those that were planned.
    """

    def __init__(self, plan: PlanFile, program: Program, workshop: Workshop, origin: Path) -> None:
        self.card = program.card
        self.shape = (plan.items, *_sizes(program.input_shape))
        names, shapes = program.card.outputs, program.output_shapes
        self.outputs = {name: _sizes(shape) for name, shape in zip(names, shapes, strict=True)}
        self.origin, self.sha256 = origin, workshop.model
        self._program, self._workshop = program, workshop
        # A plan for one device needs no cuts to be run; that of any other names them.
        self._cuts: tuple[Cut, ...] = find_cuts(program).cuts
        if len(plan.cuts) != len(self._cuts) + 2:
            raise EdgevitError(
                f"{origin} has {len(self._cuts) + 1} segments, the plan is of {len(plan.cuts) - 1}: "
                "plan it again, or give the model that was planned with --model"
            )

    def layout(self, entry: PlanEntry) -> Layout:
        """Lanes: one, or one for each replica.

        Raises:
            EdgevitError: when a piece cannot be exported, or its tensors cannot be sent as planned.
        """
        steps = [self._step(task) for task in entry.tasks]
        if entry.mode == "replicas":
            shares = [task.share for task in entry.tasks]
            return Layout(
                every=False,
                lanes=tuple(Lane(0, share, (step,)) for share, step in zip(shares, steps, strict=True)),
            )
        return Layout(every=False, lanes=(Lane(0, 1.0, tuple(steps)),))

    def _step(self, task: TaskEntry) -> Step:
        if task.first is None or task.last is None or task.last > len(self._cuts):
            raise EdgevitError(f"plan: {task.device} runs parts, or segments that the model does not have")
        first, last = task.first, task.last
        piece = self._piece(task, first, last)
        if last == len(self._cuts):
            return Step(task.device, piece, tuple(self.card.outputs))
        crossing = self._cuts[last].tensors
        floats = any(tensor.dtype.startswith("float") for tensor in crossing)
        if floats and task.sent.precision == "int8":
            raise EdgevitError(
                f"plan: {task.device} is to send floats as int8, which workers do not; plan with --wire fp16"
            )
        names = tuple(tensor.name for tensor in crossing)
        return Step(task.device, piece, names, halved=task.sent.precision == "fp16")

    def _piece(self, task: TaskEntry, first: int, last: int) -> Piece:
        def make() -> Program:
            ends = [*([self._cuts[first - 1]] if first else []), *self._cuts[last : last + 1]]
            return stages(self._program, ends)[1 if first else 0]

        return self._workshop.piece(f"segments-{first}-{last}", task.format, task.precision, make)

    def answer(self, gathered: Gathered) -> dict[str, Array]:
        """What the last step gave."""
        return dict(gathered[0])


class EnsembleModel:
    """A class-wise split: parts on devices, and one answer of their features, made here.

    Args:
        plan: that it is run by.
        split: its parts and fusion.
        workshop: that makes its pieces.
        origin: the split's manifest.
    """

    def __init__(self, plan: PlanFile, split: Split, workshop: Workshop, origin: Path) -> None:
        first = split.parts[0]
        self.card = first.card.model_copy(
            update={"outputs": first.card.outputs[:1], "labels": split.manifest.labels}
        )
        self.shape = (plan.items, *_sizes(first.input_shape))
        self.outputs: dict[str, tuple[int, ...]] = {first.card.outputs[0]: (split.manifest.classes,)}
        self.origin, self.sha256 = origin, workshop.model
        self.fusion = split.fusion
        self._split, self._workshop = split, workshop
        self._numbers = {part.name: place for place, part in enumerate(split.manifest.parts)}

    def layout(self, entry: PlanEntry) -> Layout:
        """A lane for each part.

        Raises:
            EdgevitError: when the plan has parts that the split has not, or a piece cannot be exported.
        """
        lanes = [self._lane(task, name) for task in entry.tasks for name in task.parts or ()]
        if not lanes:
            raise EdgevitError(
                f"plan: {self.origin} is a split; only its parts can be run: plan with --mode ensemble"
            )
        return Layout(every=True, lanes=tuple(lanes))

    def _lane(self, task: TaskEntry, name: str) -> Lane:
        if name not in self._numbers:
            raise EdgevitError(f"plan: {self.origin} has no part {name!r}; plan it again")
        number = self._numbers[name]
        piece = self._workshop.piece(name, task.format, task.precision, lambda: self._split.parts[number])
        return Lane(number, 1.0, (Step(task.device, piece, piece.gives[-1:]),))

    def answer(self, gathered: Gathered) -> dict[str, Array]:
        """Logits of the fusion; without what is missing."""
        features = [
            torch.from_numpy(np.array(next(iter(gathered[number].values())))) if number in gathered else None
            for number in range(len(self._numbers))
        ]
        logits: Array = self.fusion.predict(features).numpy()
        return {self.card.outputs[0]: logits}


def _sizes(shape: tuple[object, ...]) -> tuple[int, ...]:
    """Sizes behind the batch."""
    return tuple(int(str(size)) for size in shape[1:])
