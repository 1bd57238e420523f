"""One thread that has all state of a coordinator: what happens to it is a function that waits in a queue."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

Event = Callable[[], None]

# How often the clock is looked at, at the least.
_TICK = 0.02


class Conductor:
    """Does what it is told, one after the other, and looks at the clock between.

    Args:
        look_at_the_clock: called when nothing waits, every 20 ms at the least.
        ended: called at the end, however that comes.
    """

    def __init__(self, look_at_the_clock: Event, ended: Event) -> None:
        self._look_at_the_clock, self._ended = look_at_the_clock, ended
        self._events: queue.Queue[Event] = queue.Queue()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._conduct, name="conductor", daemon=True)

    def start(self) -> None:
        """Begin; what was told before waits."""
        self._thread.start()

    def tell(self, event: Event) -> None:
        """Have something done, from any thread."""
        self._events.put(event)

    @property
    def stopped(self) -> bool:
        """Whether nothing is done any more."""
        return self._stopped.is_set()

    def close(self) -> None:
        """Stop after what is being done."""
        self._stopped.set()
        self._events.put(lambda: None)
        self._thread.join()

    def _conduct(self) -> None:
        try:
            while not self._stopped.is_set():
                self._conduct_one()
        finally:
            self._stopped.set()
            self._ended()

    def _conduct_one(self) -> None:
        try:
            event = self._events.get(timeout=_TICK)
        except queue.Empty:
            self._look_at_the_clock()
            return
        event()
        if self._events.empty():
            self._look_at_the_clock()
