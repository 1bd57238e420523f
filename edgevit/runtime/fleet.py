"""The workers that a coordinator sees: who lives, what they are told, what they say of themselves."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from edgevit.errors import EdgevitError
from edgevit.runtime.access import EVERYONE, NO_ONE, group_of
from edgevit.runtime.messages import Admission, Announcement, Assignment, MessageError, Status, read, write
from edgevit.runtime.transport import alive_key, worker_key

if TYPE_CHECKING:
    import zenoh

    Replies = zenoh.handlers.Handler[zenoh.Reply]

_log = logging.getLogger("edgevit.coordinator")

#: For a worker to say something of itself.
ASK_SECONDS = 2.0
# Whether a worker has done what it was told is looked up so often, beside waiting for its reply.
_LOOK_SECONDS, _POLL_SECONDS = 1.0, 0.01
# A line is measured by the fewest bytes that take it so long, or by so many at most.
_FIRST_BYTES, _MOST_BYTES, _LONG_ENOUGH = 1 << 16, 1 << 24, 0.02
_TRIES, _LINE_SECONDS = 3, 20.0


class Presence(NamedTuple):
    """A worker as long as it is seen.

    Attributes:
        instance: what its present start is called.
        visit: how often it had come before; one whose line was cut has left its work, though it never ended.
    """

    instance: str
    visit: int


class Fleet:
    """Workers by name.

    Args:
        session: of the coordinator.
        names: devices of the plan: others are strangers.
        changed: called from a thread of the network when one came or went.
    """

    def __init__(self, session: zenoh.Session, names: Collection[str], changed: Callable[[], None]) -> None:
        self._session, self._changed = session, changed
        self._admission, self._group = Admission(tuple(names)), group_of(names)
        self._present: dict[str, Presence] = {}
        self._visits: dict[str, int] = {}
        self._lock = threading.Lock()
        self._tokens = [
            session.liveliness().declare_subscriber(alive_key(name, "*", "*"), self._token, history=True)
            for name in names
        ]

    def close(self) -> None:
        """See no one any more."""
        for token in self._tokens:
            token.undeclare()

    @property
    def present(self) -> dict[str, Presence]:
        """Those that live."""
        with self._lock:
            return dict(self._present)

    def _token(self, sample: zenoh.Sample) -> None:
        *_, name, group, instance = str(sample.key_expr).split("/")
        if str(sample.kind) == "SampleKind.DELETE":
            with self._lock:
                if name in self._present and self._present[name].instance == instance:
                    del self._present[name]
        elif group in {EVERYONE, self._group}:
            with self._lock:
                # Said twice of one that did not go: it was there already.
                if name not in self._present or self._present[name].instance != instance:
                    visit = self._visits.get(name, 0)
                    self._present[name], self._visits[name] = Presence(instance, visit), visit + 1
        elif group == NO_ONE or name not in self._visits:
            # Not in the network's own thread, which must not wait.
            threading.Thread(target=self._admit, args=(name,)).start()
            return
        else:
            # Two that take one worker from each other would never end.
            _log.warning("%s works for another coordinator now", name)
        self._changed()

    def _admit(self, name: str) -> None:
        """Tell a worker who else is in its plan: it joins the network anew, with them alone."""
        try:
            self._ask(name, "admit", write(self._admission), ASK_SECONDS)
        except EdgevitError as error:
            _log.warning("%s", error)

    def announcement(self, name: str) -> Announcement:
        """What a worker says of itself.

        Raises:
            EdgevitError: when it says nothing, or nonsense.
        """
        return read(Announcement, self._ask(name, "about", b"", ASK_SECONDS))

    def rejoin(self, name: str) -> None:
        """Have a worker leave the network and come back: its links are made anew. Does not wait."""

        def ask() -> None:
            # It leaves without a reply.
            with contextlib.suppress(EdgevitError):
                self._ask(name, "rejoin", b"", ASK_SECONDS)

        threading.Thread(target=ask).start()

    def assign(self, assignments: Mapping[str, Assignment], seconds: float) -> None:
        """Tell workers what to do, all at once, and wait until they can.

        Raises:
            EdgevitError: naming the first that refuses, or says nothing within so many seconds.
        """
        with ThreadPoolExecutor(len(assignments) or 1) as pool:
            asked = {
                name: pool.submit(self._assign, name, assignment, seconds)
                for name, assignment in assignments.items()
            }
        for future in asked.values():
            future.result()

    def _assign(self, name: str, assignment: Assignment, seconds: float) -> None:
        """Tell a worker, and wait until it can: a reply is lost with the link that it came by."""
        replies, until = self._sent(name, "assign", write(assignment), seconds), time.monotonic() + seconds
        looked = time.monotonic()
        while time.monotonic() < until:
            if self._reply(name, replies) is not None:
                return
            if time.monotonic() - looked > _LOOK_SECONDS:
                status = self._status(name, ASK_SECONDS)
                if status is not None and _does(status, assignment):
                    return
                looked = time.monotonic()
            time.sleep(_POLL_SECONDS)
        raise EdgevitError(f"{name}: does not answer")

    def statuses(self, names: Collection[str], seconds: float = ASK_SECONDS) -> dict[str, Status | None]:
        """What workers have done; None for one that does not say within so many seconds."""
        with ThreadPoolExecutor(len(names) or 1) as pool:
            found = pool.map(lambda name: self._status(name, seconds), names)
            return dict(zip(names, found, strict=True))

    def bytes_per_second(self, name: str) -> float | None:
        """How fast bytes get to a worker, by what a question takes longer with them than without.

        Measured now, on top of whatever else is on the way; None where the worker does not answer.
        """
        size = _FIRST_BYTES
        try:
            while True:
                seconds = self._quickest(name, bytes(size)) - self._quickest(name, b"")
                if seconds >= _LONG_ENOUGH or size >= _MOST_BYTES:
                    return size / seconds if seconds > 0 else None
                size *= 4
        except EdgevitError:
            return None

    def _quickest(self, name: str, payload: bytes) -> float:
        return min(self._timed(name, payload) for _ in range(_TRIES))

    def _timed(self, name: str, payload: bytes) -> float:
        started = time.perf_counter()
        self._ask(name, "status", payload, _LINE_SECONDS)
        return time.perf_counter() - started

    def _status(self, name: str, seconds: float) -> Status | None:
        try:
            return read(Status, self._ask(name, "status", b"", seconds))
        except EdgevitError:
            return None

    def _ask(self, name: str, question: str, payload: bytes, seconds: float) -> bytes:
        for reply in self._sent(name, question, payload, seconds):
            return _content(name, reply)
        raise EdgevitError(f"{name}: does not answer")

    def _sent(self, name: str, question: str, payload: bytes, seconds: float) -> Replies:
        import zenoh

        try:
            return self._session.get(worker_key(name, question), payload=payload, timeout=seconds)
        except zenoh.ZError as error:
            raise EdgevitError(f"{name}: cannot be asked: {error}") from error

    def _reply(self, name: str, replies: Replies) -> bytes | None:
        """What has come; None for nothing yet."""
        import zenoh

        try:
            reply = replies.try_recv()
        except zenoh.ZError as error:
            # It is closed without one: whoever was asked has gone.
            raise EdgevitError(f"{name}: does not answer") from error
        return None if reply is None else _content(name, reply)


def _content(name: str, reply: zenoh.Reply) -> bytes:
    sample, refusal = reply.ok, reply.err
    if sample is not None:
        return sample.payload.to_bytes()
    raise MessageError(f"{name}: {'' if refusal is None else refusal.payload.to_string()[:500]}")


def _does(status: Status, assignment: Assignment) -> bool:
    """Whether a worker does all that it was told."""
    told = (assignment.deployment, assignment.generation, len(assignment.tasks))
    return (status.deployment, status.generation, len(status.tasks)) == told
