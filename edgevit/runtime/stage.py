"""One stage on a worker: a bounded queue, one thread that runs it, and whoever gets what it makes."""

from __future__ import annotations

import logging
import queue
import statistics
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from edgevit.errors import EdgevitError
from edgevit.runtime.engines import Engine, run_engine
from edgevit.runtime.messages import Assignment, Task, TaskStatus
from edgevit.runtime.transport import answer_key, is_heard, task_key
from edgevit.runtime.wire import (
    FOR_EVER,
    NO_REQUEST,
    Array,
    Envelope,
    Fault,
    FrameError,
    Tensors,
    decode,
    encode,
)

if TYPE_CHECKING:
    import zenoh

_log = logging.getLogger("edgevit.worker")

# Runs of which the median is told.
_RECENT = 256


@dataclass(frozen=True)
class _Waiting:
    """A request in the queue, and when it came."""

    frame: Tensors
    since: float


@dataclass
class _Counts:
    """What has been done so far; written by one thread each."""

    runs: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    received: int = 0
    sent: int = 0
    refused: int = 0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    @property
    def p50(self) -> float:
        """Seconds of computing, the median of the last runs; 0 before the first."""
        return statistics.median(list(self.recent) or [0.0])


class Stage:
    """A task at work, until it is closed.

    Args:
        session: of the worker.
        worker: its name.
        assignment: of which the task is one.
        task: what is to be done.
        engine: what does it.
    """

    def __init__(
        self, session: zenoh.Session, worker: str, assignment: Assignment, task: Task, engine: Engine
    ) -> None:
        import zenoh

        self._task, self._engine, self._generation = task, engine, assignment.generation
        self._queue: queue.Queue[_Waiting | None] = queue.Queue(assignment.capacity)
        self._counts = _Counts()
        self._held: dict[bytes, None] = {}
        self._closed = False
        # A publisher that another thread uses cannot be undeclared.
        self._publishing = threading.Lock()
        deployment, to = assignment.deployment, task.to
        answers = answer_key(deployment, worker)
        following = task_key(deployment, assignment.generation, *to, worker) if any(to) else answers
        block = zenoh.CongestionControl.BLOCK
        self._next = session.declare_publisher(following, congestion_control=block)
        self._watch = self._next.declare_matching_listener(self._matched)
        self._ready = is_heard(self._next)
        self._answers = session.declare_publisher(answers, congestion_control=block)
        self._thread = threading.Thread(target=self._run, name=task.key, daemon=True)
        self._thread.start()
        key = task_key(deployment, assignment.generation, worker, task.topic, task.sender)
        self._subscriber = session.declare_subscriber(key, self._received)

    def close(self) -> None:
        """Stop; what waits is dropped, whoever asked asks again."""
        self._closed = True
        self._subscriber.undeclare()
        while self._thread.is_alive():
            try:
                self._queue.put_nowait(None)
            except queue.Full:
                self._drop_one()
            self._thread.join(0.05)
        with self._publishing:
            self._next.undeclare()
            self._answers.undeclare()

    def _matched(self, status: zenoh.MatchingStatus) -> None:
        self._ready = status.matching
        if not status.matching and any(self._task.to):
            # The coordinator may reach both ends of a line that is cut.
            envelope = Envelope(NO_REQUEST, generation=self._generation)
            self._fault_soon(envelope, f"{self._task.to[0]} is not reached")

    def _drop_one(self) -> None:
        try:
            self._queue.get_nowait()
        except queue.Empty:
            return

    def status(self) -> TaskStatus:
        """What was done so far."""
        counts = self._counts
        return TaskStatus(
            key=self._task.key,
            ready=self._ready,
            runs=counts.runs,
            seconds=counts.seconds,
            p50=counts.p50,
            waited=counts.waited,
            received=counts.received,
            sent=counts.sent,
            refused=counts.refused,
            held=tuple(request.hex() for request in list(self._held)),
        )

    def _received(self, sample: zenoh.Sample) -> None:
        data = sample.payload.to_bytes()
        self._counts.received += len(data)
        try:
            frame = self._accepted(data)
            # Marked before it can be run and unmarked.
            self._held[frame.envelope.request] = None
            self._queue.put_nowait(_Waiting(frame, time.monotonic()))
        except FrameError as error:
            # Whose it was cannot be trusted: the coordinator misses it, and sends it again.
            self._counts.refused += 1
            _log.warning("%s: %s", self._task.key, error)
        except queue.Full:
            self._counts.refused += 1
            self._fault_soon(frame.envelope, "its queue is full")

    def _accepted(self, data: bytes) -> Tensors:
        frame = decode(data)
        if isinstance(frame, Fault) or frame.envelope.generation != self._generation:
            raise FrameError("a fault, or a frame of another generation, is not for a task")
        return Tensors(replace(frame.envelope, lane=self._task.lane), frame.tensors)

    def _run(self) -> None:
        while (waiting := self._queue.get()) is not None and not self._closed:
            envelope = waiting.frame.envelope
            waited = time.monotonic() - waiting.since
            self._counts.waited += waited
            try:
                self._one(waiting.frame, waited)
            except EdgevitError as error:
                self._fault(envelope, str(error))
            finally:
                self._held.pop(envelope.request, None)

    def _one(self, frame: Tensors, waited: float) -> None:
        started = time.monotonic()
        envelope = _later(frame.envelope, waited)
        if envelope.remaining == 0:
            self._counts.refused += 1
            return
        made = self._computed(frame)
        seconds = time.monotonic() - started
        envelope = _later(envelope, seconds)
        data = encode(Tensors(envelope, made))
        self._counts.runs += 1
        self._counts.seconds += seconds
        self._counts.recent.append(seconds)
        self._counts.sent += len(data)
        if not self._closed:
            self._next.put(data)

    def _computed(self, frame: Tensors) -> dict[str, Array]:
        """The tensors that are sent on."""
        task = self._task
        known = {name: _widened(value) for name, value in frame.tensors.items()}
        absent = [name for name in task.takes if name not in known]
        if absent:
            raise EdgevitError(f"{absent[0]} is missing among the tensors")
        results = run_engine(self._engine, [known[name] for name in task.takes])
        known |= zip(task.gives, results, strict=True)
        return {name: _halved(known[name]) if task.halved else known[name] for name in task.sends}

    def _fault_soon(self, envelope: Envelope, reason: str) -> None:
        """From the network's own threads, which must not wait."""
        if not self._closed:
            threading.Thread(target=self._fault, args=(envelope, reason)).start()

    def _fault(self, envelope: Envelope, reason: str) -> None:
        _log.warning("%s: %s", self._task.key, reason)
        with self._publishing:
            if not self._closed:
                self._answers.put(encode(Fault(envelope, f"{self._task.key}: {reason}")))


def _later(envelope: Envelope, seconds: float) -> Envelope:
    """The envelope after some time has passed."""
    if envelope.remaining == FOR_EVER:
        return envelope
    return replace(envelope, remaining=max(0, envelope.remaining - round(1000 * seconds)))


def _halved(value: Array) -> Array:
    return value.astype(np.float16) if value.dtype == np.float32 else value


def _widened(value: Array) -> Array:
    """Floats as runtimes take them: halves are on the wire alone."""
    return value.astype(np.float32) if value.dtype == np.float16 else value
