"""What a plan comes to when it runs: steps on devices, in lanes that a request goes along."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

from edgevit.runtime.messages import COORDINATOR, Artefact, Assignment, Task

#: Where the first step of a lane, or every part of an ensemble, gets its tensors.
ENTRY = "entry"


def step_key(lane: int, index: int) -> str:
    """What a step is called among the tasks of its worker."""
    return f"stage-{lane}-{index}"


@dataclass(frozen=True)
class Piece:
    """A file that is made of a model, and the tensors that it takes and gives.

    Attributes:
        path: of the file.
        artefact: what a worker is told of it.
        takes: names of tensors, in the file's order.
        gives: likewise.
    """

    path: Path
    artefact: Artefact
    takes: tuple[str, ...]
    gives: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """A piece on a device.

    Attributes:
        device: its name.
        piece: what it runs.
        sends: names of the tensors that it sends on.
        halved: whether floats are sent as float16.
    """

    device: str
    piece: Piece
    sends: tuple[str, ...]
    halved: bool = False


@dataclass(frozen=True)
class Lane:
    """Steps that a request goes along.

    Attributes:
        number: that its answers are marked with.
        share: of the requests, where each goes along one lane.
        steps: in order.
    """

    number: int
    share: float
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Layout:
    """Lanes of a plan.

    Attributes:
        every: whether a request goes along every lane, whose answers make one; otherwise along one.
        lanes: of them.
    """

    every: bool
    lanes: tuple[Lane, ...]

    @property
    def devices(self) -> tuple[str, ...]:
        """Names of all devices that do something, each once."""
        return tuple(dict.fromkeys(step.device for lane in self.lanes for step in lane.steps))

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """All files, each once."""
        steps = (step for lane in self.lanes for step in lane.steps)
        return tuple({step.piece.artefact.sha256: step.piece for step in steps}.values())

    @property
    def lines(self) -> tuple[tuple[str, str], ...]:
        """Devices between which tensors pass: who sends, and who gets them."""
        pairs = (
            (step.device, following.device)
            for lane in self.lanes
            for step, following in itertools.pairwise(lane.steps)
        )
        return tuple(dict.fromkeys(pairs))

    @property
    def givers(self) -> frozenset[tuple[int, str]]:
        """Numbers of lanes, each with a device that may answer for it."""
        return frozenset((lane.number, lane.steps[-1].device) for lane in self.lanes)

    def assignments(self, blank: Assignment) -> dict[str, Assignment]:
        """What each device is told.

        Args:
            blank: an assignment without tasks.
        """
        tasks: dict[str, list[Task]] = {device: [] for device in self.devices}
        for place, lane in enumerate(self.lanes):
            for index, step in enumerate(lane.steps):
                following = lane.steps[index + 1] if index + 1 < len(lane.steps) else None
                to = ("", "") if following is None else (following.device, step_key(place, index + 1))
                tasks[step.device].append(
                    Task(
                        key=step_key(place, index),
                        topic=ENTRY if index == 0 else step_key(place, index),
                        sender=COORDINATOR if index == 0 else lane.steps[index - 1].device,
                        lane=lane.number,
                        artefact=step.piece.artefact,
                        takes=step.piece.takes,
                        gives=step.piece.gives,
                        sends=step.sends,
                        halved=step.halved,
                        to=to,
                    )
                )
        return {device: replace(blank, tasks=tuple(each)) for device, each in tasks.items()}
