"""The coordinator: it tells workers what to do, sends them requests, and sees that each is answered once.

One thread, the conductor's, has all state. What comes from the network or from who asks is a function that
waits in its queue; what takes long, telling workers what to do, has a thread of its own and reports back.
"""

from __future__ import annotations

import functools
import logging
import math
import queue
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevit.errors import EdgevitError
from edgevit.planning.plan_file import PlanEntry, PlanFile
from edgevit.runtime import transport
from edgevit.runtime.access import coordinator_rules
from edgevit.runtime.deployment import Deployment, Orders
from edgevit.runtime.fleet import Fleet
from edgevit.runtime.lanes import Layout
from edgevit.runtime.ledger import Answer, Ledger, Request, Tensors, UnansweredError
from edgevit.runtime.messages import Status
from edgevit.runtime.models import Model
from edgevit.runtime.survivors import plan_for
from edgevit.runtime.wire import Fault, FrameError, decode, encode
from edgevit.runtime.wire import Tensors as Frame

if TYPE_CHECKING:
    import zenoh

_log = logging.getLogger("edgevit.coordinator")

# How often deadlines are looked at.
_TICK = 0.02
# A request is looked for once it takes so many times what the slowest of late has taken.
_SLOW = 8.0
_FORGET = 0.98


@dataclass(frozen=True)
class CoordinatorOptions:
    """How a coordinator is.

    Attributes:
        patience: seconds after which an unanswered request is looked for, at the least.
        probation: seconds for which a device that held one too long gets nothing to do.
        in_flight: requests on their way at once; None for two for each device.
        gather: seconds to wait for all devices of the best plan before another one is run.
        hopeless: seconds without any plan for the devices that are there, after which requests fail.
    """

    patience: float = 5.0
    probation: float = 30.0
    in_flight: int | None = None
    gather: float = 10.0
    hopeless: float = 30.0

    def __post_init__(self) -> None:
        for name in ("patience", "probation", "gather", "hopeless"):
            if not 0 < getattr(self, name) < math.inf:
                raise EdgevitError(f"{name}: must be above 0 seconds and finite")
        if self.in_flight is not None and not 1 <= self.in_flight <= 65536:
            raise EdgevitError(f"--in-flight {self.in_flight}: 1 to 65536 are possible")


class Coordinator:
    """A plan at work.

    Args:
        plan: the plan file.
        model: what it is of.
        links: how workers are met.
        options: how the coordinator is.
        spares: layouts of plans that may be needed; workers have their files before they are.

    Raises:
        EdgevitError: when the network cannot be joined.
    """

    def __init__(
        self,
        plan: PlanFile,
        model: Model,
        links: transport.Links,
        options: CoordinatorOptions,
        spares: Sequence[Layout] = (),
    ) -> None:
        self.plan, self.model, self._options = plan, model, options
        self._ledger = Ledger()
        self._events: queue.Queue[Callable[[], None]] = queue.Queue()
        self._slots = threading.BoundedSemaphore(self.in_flight)
        self._stopped = threading.Event()
        self._ready = threading.Event()
        self._orders: Orders | None = None
        self._ordered: tuple[PlanEntry, dict[str, str]] | None = None
        self._suspects: dict[str, float] = {}
        self._slowest = 0.0
        self._planless_since: float | None = time.monotonic()
        self._started = time.monotonic()
        self._searching = False
        self.switches = 0
        identity, devices = secrets.token_hex(8), [device.name for device in plan.devices]
        self._session = transport.open_session(links, coordinator_rules(identity, devices))
        self._subscriber = self._session.declare_subscriber(transport.answer_key(identity), self._sample)
        self._token = self._session.liveliness().declare_token(transport.coordinator_key(identity))
        self._fleet = Fleet(self._session, devices, lambda: self._events.put(self._reconsider))
        self._deployment = Deployment(self._session, identity, self._fleet, self.in_flight, spares)
        self._thread = threading.Thread(target=self._conduct, name="conductor", daemon=True)
        self._thread.start()

    @property
    def in_flight(self) -> int:
        """Requests that may be on their way at once."""
        devices = {task.device for task in self.plan.plan.tasks}
        return self._options.in_flight or 2 * len(devices)

    def close(self) -> None:
        """Stop; requests without an answer fail."""
        self._stopped.set()
        self._events.put(lambda: None)
        self._thread.join()
        self._deployment.close()
        self._fleet.close()
        self._session.close()

    def wait_until_ready(self, seconds: float) -> None:
        """Wait until a plan is running.

        Raises:
            EdgevitError: naming the devices that are missing, when none is after so many seconds.
        """
        if self._ready.wait(seconds):
            return
        absent = sorted({task.device for task in self.plan.plan.tasks} - self._fleet.instances.keys())
        why = f"{', '.join(absent)} did not come" if absent else "see the messages above"
        raise UnansweredError(f"no plan is running after {seconds:g} s: {why}")

    @property
    def ready(self) -> bool:
        """Whether a plan is running."""
        return self._ready.is_set()

    @property
    def running(self) -> Orders | None:
        """What runs now."""
        return self._orders

    @property
    def unanswered(self) -> int:
        """Requests that are on their way."""
        return len(self._ledger)

    def statuses(self) -> dict[str, Status | None]:
        """What each device that has something to do has done."""
        orders = self._orders
        return {} if orders is None else self._fleet.statuses(orders.layout.devices)

    def lines(self) -> dict[str, float | None]:
        """Bytes in a second to each device that has something to do, measured now, one after the other."""
        orders = self._orders
        devices = () if orders is None else orders.layout.devices
        return {device: self._fleet.bytes_per_second(device) for device in devices}

    def submit(
        self, inputs: Tensors, *, deadline: float = math.inf, wait: float | None = None
    ) -> Future[Answer]:
        """Ask; waits while as many requests are on their way as there may be.

        Args:
            inputs: by name, as the model takes them.
            deadline: seconds after which the answer is not wanted any more. An ensemble's is then made of
                the parts that are there, if any.
            wait: seconds for a place among those on their way; None for as long as it takes.

        Raises:
            UnansweredError: when there is no place.
        """
        if self._stopped.is_set():
            raise UnansweredError("the coordinator was stopped")
        if not self._slots.acquire(timeout=wait):
            raise UnansweredError(f"{self.in_flight} requests are on their way already; try again later")
        result: Future[Answer] = Future()
        result.add_done_callback(lambda _: self._slots.release())
        now = time.monotonic()
        request = Request(secrets.token_bytes(16), inputs, now, now + deadline, result)
        self._events.put(functools.partial(self._asked, request))
        return result

    # What follows runs in the conductor's thread alone.

    def _conduct(self) -> None:
        try:
            while not self._stopped.is_set():
                self._conduct_one()
        finally:
            # However it ends: who waits is told.
            self._stopped.set()
            for request in self._ledger:
                self._ledger.fail(request, "the coordinator was stopped")

    def _conduct_one(self) -> None:
        try:
            event = self._events.get(timeout=_TICK)
        except queue.Empty:
            self._look_at_the_clock()
            return
        event()
        if self._events.empty():
            self._look_at_the_clock()

    def _asked(self, request: Request) -> None:
        self._ledger.add(request)
        self._send_waiting()

    def _sample(self, sample: zenoh.Sample) -> None:
        self._events.put(functools.partial(self._arrived, sample.payload.to_bytes()))

    def _arrived(self, data: bytes) -> None:
        try:
            frame = decode(data)
        except FrameError as error:
            # The request is missed, looked for, and sent again.
            _log.warning("an answer was dropped: %s", error)
            return
        request = self._ledger.get(frame.envelope.request)
        if request is None:
            # Answered before: this is another attempt's.
            return
        if isinstance(frame, Fault):
            # Of a generation that is over: it has been sent again already.
            current = self._orders is not None and frame.envelope.generation == self._orders.generation
            if current and self._ledger.fault(request, frame.reason):
                self._send_waiting()
            return
        self._ledger.gather(request, frame.envelope.lane, frame.tensors)
        self._finish_if_complete(request)

    def _finish_if_complete(self, request: Request) -> None:
        orders = self._orders
        if orders is None or not request.gathered:
            return
        lanes = {lane.number for lane in orders.layout.lanes}
        if not self._ledger.missing(request, lanes):
            now = time.monotonic()
            if request.sent is not None:
                # What was slow once is forgotten over the next hundred.
                self._slowest = max(_FORGET * self._slowest, now - request.sent)
            self._finish(request, now)

    def _finish(self, request: Request, now: float) -> None:
        degraded = self.plan.plan.mode == "ensemble" and len(request.gathered) < self._parts
        try:
            outputs = self.model.answer(request.gathered)
        except EdgevitError as error:
            self._ledger.fail(request, str(error))
            return
        self._ledger.finish(request, outputs, now, degraded=degraded)

    @functools.cached_property
    def _parts(self) -> int:
        return sum(len(task.parts or ()) for task in self.plan.plan.tasks)

    def _send_waiting(self) -> None:
        orders = self._orders
        if orders is None:
            return
        for request in self._ledger.waiting():
            now = time.monotonic()
            request.sent, request.attempts = now, request.attempts + 1
            data = encode(Frame(request.envelope(orders.generation, now), request.inputs))
            orders.send(request, data, self._ledger)

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        for request in self._ledger.expired(now):
            if request.gathered:
                self._finish(request, now)
            else:
                self._ledger.fail(request, "no answer came within the deadline")
        if self._planless_since is not None and now - self._planless_since > self._options.hopeless:
            for request in self._ledger:
                self._ledger.fail(request, "the plan file has no plan for the devices that are left")
        if self._suspects and min(self._suspects.values()) < now:
            self._suspects = {key: until for key, until in self._suspects.items() if until > now}
            self._reconsider()
        if self._ordered is None:
            self._reconsider()
        self._look_for_overdue(now)

    def _look_for_overdue(self, now: float) -> None:
        patience = max(self._options.patience, _SLOW * self._slowest)
        overdue = self._ledger.overdue(now, patience)
        if not overdue or self._orders is None or self._searching:
            return
        self._searching = True
        orders, wanted = self._orders, {request.id.hex() for request in overdue}

        def search() -> None:
            statuses = self._fleet.statuses(orders.layout.devices)
            self._events.put(functools.partial(self._found, orders, wanted, statuses))

        threading.Thread(target=search, daemon=True).start()

    def _found(self, orders: Orders, wanted: set[str], statuses: dict[str, Status | None]) -> None:
        """Suspect who holds overdue requests or says nothing; send those again that nobody holds."""
        self._searching = False
        if orders is not self._orders:
            return
        until = time.monotonic() + self._options.probation
        instances, held = self._fleet.instances, set[str]()
        for device, status in statuses.items():
            holds = wanted if status is None else wanted.intersection(*[_held(status)])
            held |= holds
            if holds and self._can_do_without(device):
                _log.warning("%s is too slow: it does nothing for %g s", device, self._options.probation)
                self._suspects[instances.get(device, device)] = until
        for request in self._ledger:
            if request.id.hex() in wanted:
                # Whoever holds it may still answer: the first answer counts.
                request.sent = None if request.id.hex() not in held else time.monotonic()
        self._reconsider()
        self._send_waiting()

    def _can_do_without(self, device: str) -> bool:
        return plan_for(self.plan, self._alive().keys() - {device}) is not None

    def _alive(self) -> dict[str, str]:
        """Devices that may be given something to do, with the names of their present starts."""
        return {
            name: instance
            for name, instance in self._fleet.instances.items()
            if instance not in self._suspects
        }

    def _reconsider(self) -> None:
        """Run another plan if the devices ask for one."""
        alive = self._alive()
        entry = plan_for(self.plan, alive.keys())
        if entry is not self.plan.plan and self._orders is None and self._switching_early():
            return
        if entry is None:
            self._lose_plan()
            return
        wanted = (entry, {task.device: alive[task.device] for task in entry.tasks})
        if wanted == self._ordered:
            return
        if self._ordered is not None:
            self.switches += 1
        self._ordered, self._planless_since = wanted, None
        if self._orders is not None and not self._orders.layout.every:
            # What is on its way may be lost; parts of an ensemble that are left still answer.
            self._orders = None
        _log.info("deploying: %s on %s", entry.mode, ", ".join(wanted[1]))
        self._deployment.start(entry, self.model, self._deployed)

    def _switching_early(self) -> bool:
        """Whether devices of the best plan may still be about to come for the first time."""
        return self.switches == 0 and time.monotonic() - self._started < self._options.gather

    def _lose_plan(self) -> None:
        if self._planless_since is None:
            _log.warning("no plan in the file is for the devices that are left: waiting for others")
            self._planless_since = time.monotonic()
        self._ordered = self._orders = None
        self._ready.clear()

    def _deployed(self, result: Orders | EdgevitError) -> None:
        """Called from the deployment's thread."""
        self._events.put(functools.partial(self._switch, result))

    def _switch(self, result: Orders | EdgevitError) -> None:
        if isinstance(result, EdgevitError):
            _log.warning("deploying failed: %s", result)
            self._ordered = None
            return
        if not self._deployment.is_latest(result.generation):
            return
        self._orders = result
        self._ready.set()
        self._ledger.send_again()
        for request in self._ledger:
            self._finish_if_complete(request)
        self._send_waiting()


def _held(status: Status) -> set[str]:
    return {request for task in status.tasks for request in task.held}
