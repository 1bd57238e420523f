"""Which plan of the file runs: one for the devices that are there, brought to them, given up when they go."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable

from edgevit.errors import EdgevitError
from edgevit.planning.plan_file import PlanEntry, PlanFile
from edgevit.runtime.deployment import Deployment, Orders
from edgevit.runtime.fleet import Fleet
from edgevit.runtime.models import Model
from edgevit.runtime.survivors import plan_for

_log = logging.getLogger("edgevit.coordinator")


class Steering:
    """Keeps the best plan running. Its methods are the conductor's, unless they say otherwise.

    Args:
        plan: the plan file.
        model: what it is of.
        fleet: the workers.
        deployment: that brings plans to them.
        tell: puts a function before the conductor.
        switched: called when another plan runs.
        gather: seconds to wait for all devices of the best plan before another one is run.

    Attributes:
        orders: what runs now; None while nothing does.
        switches: how often another plan took over.
        ready: set while a plan is running.
    """

    def __init__(
        self,
        plan: PlanFile,
        model: Model,
        fleet: Fleet,
        deployment: Deployment,
        *,
        tell: Callable[[Callable[[], None]], None],
        switched: Callable[[], None],
        gather: float,
    ) -> None:
        self._plan, self._model, self._fleet, self._deployment = plan, model, fleet, deployment
        self._tell, self._switched, self._gather = tell, switched, gather
        self.orders: Orders | None = None
        self.switches = 0
        self.ready = threading.Event()
        self._latest: Orders | None = None
        self._ordered: tuple[PlanEntry, dict[str, str]] | None = None
        self._suspects: dict[str, float] = {}
        self._started = time.monotonic()
        self._planless_since: float | None = self._started

    def close(self) -> None:
        """Send nothing any more with what ran last; once the conductor has ended, or from it."""
        if self._latest is not None:
            self._latest.close()

    def planless_for(self, now: float) -> float:
        """Seconds for which there has been no plan for the devices that are there."""
        return 0.0 if self._planless_since is None else now - self._planless_since

    def look_at_the_clock(self, now: float) -> None:
        """Believe devices again whose probation is over, and try again what failed."""
        if self._suspects and min(self._suspects.values()) < now:
            self._suspects = {key: until for key, until in self._suspects.items() if until > now}
            self.reconsider()
        if self._ordered is None:
            self.reconsider()

    def suspect(self, device: str, until: float) -> None:
        """Give a device nothing to do for a while."""
        self._suspects[self._fleet.instances.get(device, device)] = until

    def can_do_without(self, device: str) -> bool:
        """Whether there is a plan without a device."""
        return plan_for(self._plan, self._alive().keys() - {device}) is not None

    def _alive(self) -> dict[str, str]:
        """Devices that may be given something to do, with the names of their present starts."""
        return {
            name: instance
            for name, instance in self._fleet.instances.items()
            if instance not in self._suspects
        }

    def reconsider(self) -> None:
        """Run another plan if the devices ask for one."""
        alive = self._alive()
        entry = plan_for(self._plan, alive.keys())
        if entry is not self._plan.plan and self.orders is None and self._switching_early():
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
        if self.orders is not None and not self.orders.layout.every:
            # What is on its way may be lost; parts of an ensemble that are left still answer.
            self.orders = None
        _log.info("deploying: %s on %s", entry.mode, ", ".join(wanted[1]))
        self._deployment.start(entry, self._model, self._deployed)

    def _switching_early(self) -> bool:
        """Whether devices of the best plan may still be about to come for the first time."""
        return self.switches == 0 and time.monotonic() - self._started < self._gather

    def _lose_plan(self) -> None:
        if self._planless_since is None:
            _log.warning("no plan in the file is for the devices that are left: waiting for others")
            self._planless_since = time.monotonic()
        self._ordered = self.orders = None
        self.ready.clear()

    def _deployed(self, result: Orders | EdgevitError) -> None:
        """Called from the deployment's thread."""
        self._tell(functools.partial(self._switch, result))

    def _switch(self, result: Orders | EdgevitError) -> None:
        if isinstance(result, EdgevitError):
            _log.warning("deploying failed: %s", result)
            self._ordered = None
            return
        if not self._deployment.is_latest(result.generation):
            result.close()
            return
        self.close()
        self.orders = self._latest = result
        self.ready.set()
        _log.info("running: generation %d", result.generation)
        self._switched()
