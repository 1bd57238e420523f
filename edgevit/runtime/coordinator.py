"""The coordinator: it tells workers what to do, sends them requests, and sees that each is answered once.

One thread, the conductor's, has all state. What comes from the network or from who asks is a function that
waits in its queue; what takes long, telling workers what to do, has a thread of its own and reports back.
"""

from __future__ import annotations

import functools
import math
import secrets
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevit.errors import EdgevitError
from edgevit.planning.plan_file import PlanFile
from edgevit.runtime import transport
from edgevit.runtime.access import coordinator_rules
from edgevit.runtime.conductor import Conductor
from edgevit.runtime.deployment import Deployment, Orders
from edgevit.runtime.dispatch import Dispatch
from edgevit.runtime.fleet import Fleet
from edgevit.runtime.lanes import Layout
from edgevit.runtime.ledger import Answer, Request, Tensors, UnansweredError
from edgevit.runtime.messages import Status
from edgevit.runtime.models import Model
from edgevit.runtime.search import Search
from edgevit.runtime.steering import Steering

if TYPE_CHECKING:
    import zenoh


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
        self._slots = threading.BoundedSemaphore(self.in_flight)
        self._conductor = Conductor(self._look_at_the_clock, self._ended)
        tell = self._conductor.tell
        identity, devices = secrets.token_hex(8), [device.name for device in plan.devices]
        self._session = transport.open_session(links, coordinator_rules(identity, devices))
        # One for each: under a device's name only that device is heard.
        self._subscribers = [
            self._session.declare_subscriber(transport.answer_key(identity, device), self._sample)
            for device in devices
        ]
        self._token = self._session.liveliness().declare_token(transport.coordinator_key(identity))
        self._fleet = Fleet(self._session, devices, lambda: tell(self._reconsider))
        self._deployment = Deployment(self._session, identity, self._fleet, self.in_flight, spares)
        self._steering = Steering(
            plan, model, self._fleet, self._deployment,
            tell=tell, switched=self._send_again, gather=options.gather,
            probation=options.probation,
        )  # fmt: skip
        self._dispatch = Dispatch(plan, model, self._steering)
        self._search = Search(
            self._dispatch, self._steering, self._fleet,
            tell=tell, patience=options.patience, probation=options.probation,
        )  # fmt: skip
        self._conductor.start()

    @property
    def in_flight(self) -> int:
        """Requests that may be on their way at once."""
        devices = {task.device for task in self.plan.plan.tasks}
        return self._options.in_flight or 2 * len(devices)

    def close(self) -> None:
        """Stop; requests without an answer fail."""
        self._conductor.close()
        self._deployment.close()
        self._steering.close()
        self._fleet.close()
        self._session.close()

    def wait_until_ready(self, seconds: float) -> None:
        """Wait until a plan is running.

        Raises:
            EdgevitError: naming the devices that are missing, when none is after so many seconds.
        """
        if self._steering.ready.wait(seconds):
            return
        absent = sorted({task.device for task in self.plan.plan.tasks} - self._fleet.present.keys())
        why = f"{', '.join(absent)} did not come" if absent else "see the messages above"
        raise UnansweredError(f"no plan is running after {seconds:g} s: {why}")

    @property
    def ready(self) -> bool:
        """Whether a plan is running."""
        return self._steering.ready.is_set()

    @property
    def running(self) -> Orders | None:
        """What runs now."""
        return self._steering.orders

    @property
    def switches(self) -> int:
        """How often another plan took over."""
        return self._steering.switches

    @property
    def unanswered(self) -> int:
        """Requests that are on their way."""
        return len(self._dispatch.ledger)

    def statuses(self) -> dict[str, Status | None]:
        """What each device that has something to do has done."""
        orders = self.running
        return {} if orders is None else self._fleet.statuses(orders.layout.devices)

    def lines(self) -> dict[str, float | None]:
        """Bytes in a second to each device that has something to do, measured now, one after the other."""
        orders = self.running
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
        if self._conductor.stopped:
            raise UnansweredError("the coordinator was stopped")
        if not self._slots.acquire(timeout=wait):
            raise UnansweredError(f"{self.in_flight} requests are on their way already; try again later")
        result: Future[Answer] = Future()
        result.add_done_callback(lambda _: self._slots.release())
        now = time.monotonic()
        request = Request(secrets.token_bytes(16), inputs, now, now + deadline, result)
        self._conductor.tell(functools.partial(self._dispatch.ask, request))
        return result

    def _sample(self, sample: zenoh.Sample) -> None:
        device = str(sample.key_expr).rpartition("/")[2]
        self._conductor.tell(functools.partial(self._arrived, device, sample.payload.to_bytes()))

    # What follows runs in the conductor's thread alone, when all parts are there.

    def _arrived(self, device: str, data: bytes) -> None:
        self._dispatch.arrived(device, data)

    def _reconsider(self) -> None:
        self._steering.reconsider()

    def _send_again(self) -> None:
        self._dispatch.send_again()

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        self._dispatch.look_at_the_clock(now)
        if self._steering.planless_for(now) > self._options.hopeless:
            self._dispatch.fail_all("the plan file has no plan for the devices that are left")
        self._steering.look_at_the_clock(now)
        self._search.look_at_the_clock(now)

    def _ended(self) -> None:
        # However it ends: who waits is told.
        self._dispatch.fail_all("the coordinator was stopped")
