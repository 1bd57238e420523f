"""Overdue requests looked for: workers are asked who holds them, and whoever does is suspected."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable

from edgevit.runtime.deployment import Orders
from edgevit.runtime.dispatch import Dispatch
from edgevit.runtime.fleet import ASK_SECONDS, Fleet
from edgevit.runtime.messages import Status
from edgevit.runtime.steering import Steering

_log = logging.getLogger("edgevit.coordinator")


class Search:
    """Looks for overdue requests: asks workers who holds them, and suspects those.

    Args:
        dispatch: the requests.
        steering: of whoever is suspected.
        fleet: the workers.
        tell: puts a function before the conductor.
        patience: seconds after which an unanswered request is looked for, at the least.
        probation: seconds for which a device that held one too long gets nothing to do.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        steering: Steering,
        fleet: Fleet,
        *,
        tell: Callable[[Callable[[], None]], None],
        patience: float,
        probation: float,
    ) -> None:
        self._dispatch, self._steering, self._fleet, self._tell = dispatch, steering, fleet, tell
        self._patience, self._probation = patience, probation
        self._searching = False

    def look_at_the_clock(self, now: float) -> None:
        """Begin to search if something is overdue."""
        patience = max(self._patience, self._dispatch.slow)
        overdue = self._dispatch.ledger.overdue(now, patience)
        orders = self._steering.orders
        if not overdue or orders is None or self._searching:
            return
        self._searching = True
        wanted = {request.id.hex() for request in overdue}

        def search() -> None:
            # Who holds nothing says so at once: longer than for an answer need not be waited for that.
            statuses = self._fleet.statuses(orders.layout.devices, min(ASK_SECONDS, self._patience))
            self._tell(functools.partial(self._found, orders, wanted, statuses))

        threading.Thread(target=search).start()

    def _found(self, orders: Orders, wanted: set[str], statuses: dict[str, Status | None]) -> None:
        """Suspect who holds overdue requests or says nothing; send those again that nobody holds."""
        self._searching = False
        if orders is not self._steering.orders:
            return
        until, held = time.monotonic() + self._probation, set[str]()
        for device, status in statuses.items():
            holds = wanted if status is None else wanted & _held(status)
            held |= holds
            if status is not None and not all(task.ready for task in status.tasks):
                self._steering.note_apart(device, status.generation)
            if status is not None and not status.deployment:
                _log.warning("%s does nothing any more: it is told again", device)
                self._steering.tell_again()
            if holds and self._steering.can_do_without(device):
                _log.warning("%s is too slow: it does nothing for %g s", device, self._probation)
                self._steering.suspect(device, until)
        for request in self._dispatch.ledger:
            if request.id.hex() in wanted:
                # Whoever holds it may still answer: the first answer counts.
                request.sent = None if request.id.hex() not in held else time.monotonic()
        self._steering.reconsider()
        self._dispatch.send_waiting()


def _held(status: Status) -> set[str]:
    return {request for task in status.tasks for request in task.held}
