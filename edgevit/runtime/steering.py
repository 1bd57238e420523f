"""Which plan of the file runs: one for the devices that are there, brought to them, given up when they go."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable

from edgevit.errors import EdgevitError
from edgevit.planning.plan_file import PlanEntry, PlanFile
from edgevit.runtime.deployment import ApartError, Deployment, Orders
from edgevit.runtime.fleet import Fleet, Presence
from edgevit.runtime.models import Model
from edgevit.runtime.survivors import plan_for

_log = logging.getLogger("edgevit.coordinator")

# Whoever does not reach a device that has just died is not to blame. It is soon seen that it has: by its
# token, or by its silence for so long.
_GRACE, _SILENCE = 0.3, 0.5


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
        probation: seconds for which a device that is not linked to others gets nothing to do, if joining the
            network anew did not help.

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
        probation: float,
    ) -> None:
        self._plan, self._model, self._fleet, self._deployment = plan, model, fleet, deployment
        self._tell, self._switched, self._gather = tell, switched, gather
        self._probation = probation
        self.orders: Orders | None = None
        self.switches = 0
        self.ready = threading.Event()
        self._latest: Orders | None = None
        self._running: dict[str, Presence] = {}
        self._deploying = False
        self._ordered: tuple[PlanEntry, dict[str, Presence]] | None = None
        self._suspects: dict[str, float] = {}
        self._apart: dict[tuple[str, str], float] = {}
        self._rejoined: dict[str, float] = {}
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
        for line, since in list(self._apart.items()):
            if now - since > _GRACE:
                self._apart.pop(line, None)
                threading.Thread(target=self._ask_receiver, args=(line,)).start()
        if self._ordered is None:
            self.reconsider()

    def note_apart(self, device: str, generation: int) -> None:
        """Note that a device does not reach who is next, though both may be there."""
        if self.orders is not None and generation == self.orders.generation:
            for line in self.orders.layout.lines:
                if line[0] == device:
                    self._apart.setdefault(line, time.monotonic())

    def _ask_receiver(self, line: tuple[str, str]) -> None:
        """In a thread of its own: whether the device that is not reached is there."""
        if self._fleet.statuses([line[1]], _SILENCE)[line[1]] is not None:
            self._tell(functools.partial(self._bring_together, line))

    def _bring_together(self, line: tuple[str, str]) -> None:
        """Have a device's links made anew, and if they were lately, do without it."""
        working = () if self.orders is None else self.orders.layout.devices
        device = next((name for name in line if name not in working), line[0])
        now, last = time.monotonic(), self._rejoined.get(device)
        if last is None or now - last > self._probation:
            _log.warning("%s does not reach %s: %s joins the network again", *line, device)
            self._rejoined[device] = now
            self._fleet.rejoin(device)
        elif self.can_do_without(device):
            _log.warning("%s does not reach %s: %s rests for %g s", *line, device, self._probation)
            self.suspect(device, now + self._probation)
            self.reconsider()

    def suspect(self, device: str, until: float) -> None:
        """Give a device nothing to do for a while."""
        present = self._fleet.present.get(device)
        if present is not None:
            self._suspects[present.instance] = until

    def tell_again(self) -> None:
        """Bring what runs to the devices once more: one of them does not do it any more."""
        if not self._deploying:
            self._ordered = None

    def can_do_without(self, device: str) -> bool:
        """Whether there is a plan without a device."""
        return plan_for(self._plan, self._alive().keys() - {device}) is not None

    def _alive(self) -> dict[str, Presence]:
        """Devices that may be given something to do."""
        return {
            name: present
            for name, present in self._fleet.present.items()
            if present.instance not in self._suspects
        }

    def reconsider(self) -> None:
        """Run another plan if the devices ask for one."""
        alive = self._alive()
        entry = plan_for(self._plan, alive.keys())
        if entry is None:
            # Whoever is suspected is better than no one.
            alive = self._fleet.present
            entry = plan_for(self._plan, alive.keys())
        if entry is not self._plan.plan and self.orders is None and self._switching_early():
            return
        if entry is None:
            self._lose_plan()
            return
        wanted = (entry, {task.device: alive[task.device] for task in entry.tasks})
        if wanted == self._ordered:
            return
        if self._deploying and self._ordered is not None and self._ordered[1].items() <= alive.items():
            # Something is to run soon; what is better comes after it.
            return
        self._ordered, self._planless_since, self._deploying = wanted, None, True
        self._apart.clear()
        if not self._running.items() <= alive.items():
            self._leave()
        _log.info("deploying: %s on %s", entry.mode, ", ".join(wanted[1]))
        self._deployment.start(entry, self._model, self._leaving, self._deployed)

    def _leave(self) -> None:
        """Send nothing more to what runs: it may be lost. Parts of an ensemble that are left still answer."""
        if self.orders is not None and not self.orders.layout.every:
            self.orders = None

    def _leaving(self, generation: int) -> None:
        """Called from the deployment's thread."""
        self._tell(lambda: self._leave() if self._deployment.is_latest(generation) else None)

    def _switching_early(self) -> bool:
        """Whether devices of the best plan may still be about to come for the first time."""
        return self._latest is None and time.monotonic() - self._started < self._gather

    def _lose_plan(self) -> None:
        if self._planless_since is None:
            _log.warning("no plan in the file is for the devices that are left: waiting for others")
            self._planless_since = time.monotonic()
        self._ordered = self.orders = None
        self._deploying = False
        self.ready.clear()

    def _deployed(self, result: Orders | EdgevitError) -> None:
        """Called from the deployment's thread."""
        self._tell(functools.partial(self._switch, result))

    def _switch(self, result: Orders | EdgevitError) -> None:
        if isinstance(result, EdgevitError):
            _log.warning("deploying failed: %s", result)
            self._ordered, self._deploying = None, False
            for line in result.lines if isinstance(result, ApartError) else ():
                self._bring_together(line)
            return
        if not self._deployment.is_latest(result.generation):
            result.close()
            return
        self._deploying = False
        self.switches += self._latest is not None
        self.close()
        self.orders = self._latest = result
        self._running = {} if self._ordered is None else self._ordered[1]
        self.ready.set()
        _log.info("running: generation %d", result.generation)
        self._switched()
        self.reconsider()
