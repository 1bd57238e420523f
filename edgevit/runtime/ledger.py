"""Requests that have no answer yet: each is answered once, whatever is lost, late, or said twice."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from edgevit.errors import EdgevitError
from edgevit.runtime.wire import FOR_EVER, Array, Envelope

Tensors = Mapping[str, Array]


class UnansweredError(EdgevitError):
    """A request that nobody could answer in time, or at all."""

    exit_code = 1


@dataclass(frozen=True)
class Answer:
    """What came of a request.

    Attributes:
        outputs: tensors by name.
        degraded: whether parts of an ensemble are missing in it.
        seconds: from asking to the answer.
        attempts: how often it was sent.
    """

    outputs: Tensors
    degraded: bool
    seconds: float
    attempts: int


@dataclass(eq=False)
class Request:
    """A request on its way.

    Attributes:
        id: 16 bytes, the same on every attempt.
        inputs: kept until there is an answer, to be sent again.
        asked: when.
        until: when nobody wants the answer any more; infinite for never.
        result: that someone waits for.
        sent: when it was sent last; None where it waits to be sent.
        attempts: how often it was.
        faults: how often a worker said that it cannot.
        lane: place of the lane that it was sent along; None for all.
        givers: numbers of lanes, each with a device that may answer for it.
        gathered: what lanes gave, by their numbers.
    """

    id: bytes
    inputs: Tensors
    asked: float
    until: float
    result: Future[Answer]
    sent: float | None = None
    attempts: int = 0
    faults: int = 0
    lane: int | None = None
    givers: frozenset[tuple[int, str]] = frozenset()
    gathered: dict[int, Tensors] = field(default_factory=dict)

    def envelope(self, generation: int, now: float) -> Envelope:
        """Of the next attempt."""
        left = (
            FOR_EVER if math.isinf(self.until) else min(FOR_EVER - 1, max(1, int(1000 * (self.until - now))))
        )
        return Envelope(self.id, 0, min(self.attempts, 2**16 - 1), generation, left)


class Ledger:
    """The open requests, oldest first.

    Args:
        most_faults: after which a request is given up.
    """

    def __init__(self, most_faults: int = 3) -> None:
        self._most_faults = most_faults
        self._open: dict[bytes, Request] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Request]:
        return iter(list(self._open.values()))

    def add(self, request: Request) -> None:
        """Wait for its answer from now on."""
        self._open[request.id] = request

    def get(self, request: bytes) -> Request | None:
        """An open request; None where it has its answer, or is a stranger's."""
        return self._open.get(request)

    def gather(self, request: Request, lane: int, outputs: Tensors) -> None:
        """Keep what a lane gave; the first time counts, another attempt computes the same."""
        request.gathered.setdefault(lane, outputs)

    def missing(self, request: Request, lanes: Collection[int]) -> set[int]:
        """Lanes that have not given anything for it yet."""
        return set(lanes) - request.gathered.keys()

    def finish(self, request: Request, outputs: Tensors, now: float, *, degraded: bool = False) -> None:
        """Give its answer to who waits, and forget it."""
        if self._open.pop(request.id, None) is not None:
            request.result.set_result(Answer(outputs, degraded, now - request.asked, request.attempts))

    def fail(self, request: Request, reason: str) -> None:
        """Tell who waits that there is none, and forget it."""
        if self._open.pop(request.id, None) is not None:
            request.result.set_exception(UnansweredError(reason))

    def fault(self, request: Request, reason: str) -> bool:
        """Note that a worker could not; whether it may be sent again."""
        request.faults += 1
        if request.faults >= self._most_faults:
            self.fail(request, f"tried {request.faults} times in vain: {reason}")
            return False
        request.sent = None
        return True

    def send_again(self) -> None:
        """Let all that are open be sent once more: devices have changed."""
        for request in self._open.values():
            request.sent = None

    def waiting(self) -> list[Request]:
        """Those that are to be sent, oldest first."""
        return [request for request in self._open.values() if request.sent is None]

    def expired(self, now: float) -> list[Request]:
        """Those whose answer nobody wants any more."""
        return [request for request in self._open.values() if now >= request.until]

    def overdue(self, now: float, patience: float) -> list[Request]:
        """Those that were sent so many seconds ago, or longer."""
        return [
            request
            for request in self._open.values()
            if request.sent is not None and now - request.sent >= patience
        ]
