"""Requests on their way: sent along lanes, gathered, and answered once."""

from __future__ import annotations

import logging
import time

from edgevit.errors import EdgevitError
from edgevit.planning.plan_file import PlanFile
from edgevit.runtime.ledger import Ledger, Request
from edgevit.runtime.models import Model
from edgevit.runtime.steering import Steering
from edgevit.runtime.wire import NO_REQUEST, Fault, FrameError, Tensors, decode, encode

_log = logging.getLogger("edgevit.coordinator")

# A request is looked for once it takes so many times what the slowest of late has taken.
_SLOW = 8.0
_FORGET = 0.98


class Dispatch:
    """Sends requests with what runs, and makes answers of what comes back. Its methods are the conductor's.

    Args:
        plan: the plan file.
        model: that makes answers of what lanes gave.
        steering: that says what runs.
    """

    def __init__(self, plan: PlanFile, model: Model, steering: Steering) -> None:
        self._model, self._steering = model, steering
        self._parts = sum(len(task.parts or ()) for task in plan.plan.tasks)
        self.ledger = Ledger()
        self._slowest = 0.0

    @property
    def slow(self) -> float:
        """Seconds that are too many for an answer, by those of late."""
        return _SLOW * self._slowest

    def ask(self, request: Request) -> None:
        """Send a request as soon as something runs."""
        self.ledger.add(request)
        self.send_waiting()

    def fail_all(self, reason: str) -> None:
        """Tell all who wait that there are no answers."""
        for request in self.ledger:
            self.ledger.fail(request, reason)

    def send_waiting(self) -> None:
        """Send what waits, the oldest first."""
        orders = self._steering.orders
        if orders is None:
            return
        for request in self.ledger.waiting():
            now = time.monotonic()
            request.sent, request.attempts = now, request.attempts + 1
            # Who has it from an earlier plan may still answer.
            request.givers |= orders.layout.givers
            data = encode(Tensors(request.envelope(orders.generation, now), request.inputs))
            orders.send(request, data, self.ledger)

    def send_again(self) -> None:
        """Send all that is open once more: another plan runs."""
        self.ledger.send_again()
        for request in self.ledger:
            self._finish_if_complete(request)
        self.send_waiting()

    def arrived(self, device: str, data: bytes) -> None:
        """Take what a worker gave, or that it could not."""
        try:
            frame = decode(data)
        except FrameError as error:
            # The request is missed, looked for, and sent again.
            _log.warning("an answer of %s was dropped: %s", device, error)
            return
        if isinstance(frame, Fault) and frame.envelope.request == NO_REQUEST:
            self._steering.note_apart(device, frame.envelope.generation)
            return
        request = self.ledger.get(frame.envelope.request)
        if request is None:
            # Answered before: this is another attempt's.
            return
        if isinstance(frame, Fault):
            self._could_not(device, request, frame)
            return
        if (frame.envelope.lane, device) not in request.givers:
            _log.warning("an answer of %s was dropped: it was not asked", device)
            return
        self.ledger.gather(request, frame.envelope.lane, frame.tensors)
        self._finish_if_complete(request)

    def _could_not(self, device: str, request: Request, fault: Fault) -> None:
        orders = self._steering.orders
        if orders is None or fault.envelope.generation != orders.generation:
            # Of a generation that is over: it has been sent again already.
            return
        if device in orders.layout.devices and self.ledger.fault(request, fault.reason):
            self.send_waiting()

    def _finish_if_complete(self, request: Request) -> None:
        orders = self._steering.orders
        if orders is None or not request.gathered:
            return
        lanes = {lane.number for lane in orders.layout.lanes}
        if not self.ledger.missing(request, lanes):
            now = time.monotonic()
            if request.sent is not None:
                # What was slow once is forgotten over the next hundred.
                self._slowest = max(_FORGET * self._slowest, now - request.sent)
            self._finish(request, now)

    def _finish(self, request: Request, now: float) -> None:
        try:
            outputs = self._model.answer(request.gathered)
        except EdgevitError as error:
            self.ledger.fail(request, str(error))
            return
        # Only an ensemble has parts.
        self.ledger.finish(request, outputs, now, degraded=len(request.gathered) < self._parts)

    def look_at_the_clock(self, now: float) -> None:
        """Answer, or fail, what nobody wants any later."""
        for request in self.ledger.expired(now):
            if request.gathered:
                self._finish(request, now)
            else:
                self.ledger.fail(request, "no answer came within the deadline")
