"""Plans brought to workers: files that they fetch, what they are told, and how requests get to them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgevit import progress
from edgevit.errors import EdgevitError
from edgevit.planning.plan_file import PlanEntry
from edgevit.runtime.fleet import Fleet
from edgevit.runtime.lanes import ENTRY, Lane, Layout, Piece
from edgevit.runtime.ledger import Ledger, Request
from edgevit.runtime.messages import COORDINATOR, Announcement, Artefact, Assignment
from edgevit.runtime.models import Model
from edgevit.runtime.transport import artefact_key, is_heard, task_key

if TYPE_CHECKING:
    import zenoh

_CHUNK = 1 << 20
# For devices to be linked, for a worker to fetch and load its pieces, and for all to be ready after that.
_LINK_SECONDS, _ASSIGN_SECONDS, _READY_SECONDS = 2.0, 120.0, 5.0


class ApartError(EdgevitError):
    """Devices of a plan that are there, but are not linked.

    Attributes:
        lines: who should send to whom.
    """

    def __init__(self, lines: Sequence[tuple[str, str]]) -> None:
        named = ", ".join(f"{sender} and {receiver}" for sender, receiver in lines)
        super().__init__(
            f"{named}: do not reach one another; start each worker with --listen at an address that the "
            "others can reach"
        )
        self.lines = lines


class Orders:
    """A layout that workers are ready for.

    Args:
        session: of the coordinator.
        deployment: its name.
        generation: of the assignments.
        entry: the plan that they carry out.
        layout: its lanes.
    """

    def __init__(
        self, session: zenoh.Session, deployment: str, generation: int, entry: PlanEntry, layout: Layout
    ) -> None:
        import zenoh

        self.generation, self.entry, self.layout = generation, entry, layout
        entrances = dict.fromkeys(lane.steps[0].device for lane in layout.lanes)
        self._publishers = {
            device: session.declare_publisher(
                task_key(deployment, generation, device, ENTRY, COORDINATOR),
                congestion_control=zenoh.CongestionControl.BLOCK,
            )
            for device in entrances
        }
        self._sent = [0] * len(layout.lanes)

    @property
    def seen(self) -> bool:
        """Whether all devices that get requests can be reached."""
        return all(map(is_heard, self._publishers.values()))

    def send(self, request: Request, data: bytes, ledger: Ledger) -> None:
        """Send a request where it has to go: along the lane that is most in arrears, or along all."""
        if not self.layout.every:
            place = self._next_lane()
            self._sent[place] += 1
            request.lane = place
            self._publishers[self.layout.lanes[place].steps[0].device].put(data)
            return
        missing = ledger.missing(request, [lane.number for lane in self.layout.lanes])
        devices = dict.fromkeys(lane.steps[0].device for lane in self.layout.lanes if lane.number in missing)
        for device in devices:
            self._publishers[device].put(data)

    def _next_lane(self) -> int:
        lanes: tuple[Lane, ...] = self.layout.lanes
        return min(range(len(lanes)), key=lambda place: (self._sent[place] + 1) / lanes[place].share)

    def close(self) -> None:
        """Send nothing any more."""
        for publisher in self._publishers.values():
            publisher.undeclare()


class Deployment:
    """What workers are told, one generation after the other.

    Args:
        session: of the coordinator.
        name: of the deployment.
        fleet: the workers.
        capacity: requests that may wait before each task.
        spares: layouts of plans that may be needed.
    """

    def __init__(
        self, session: zenoh.Session, name: str, fleet: Fleet, capacity: int, spares: Sequence[Layout]
    ) -> None:
        self._session, self._name, self._fleet, self._capacity = session, name, fleet, capacity
        self._spares = spares
        self._generation = 0
        self._pieces: dict[str, Piece] = {}
        self._queryable = session.declare_queryable(artefact_key(name, "*"), self._bytes_of)

    def close(self) -> None:
        """Give no files any more; workers rest when the coordinator's token has gone."""
        self._generation += 1
        self._queryable.undeclare()

    def is_latest(self, generation: int) -> bool:
        """Whether nothing else was ordered since."""
        return generation == self._generation

    def start(
        self,
        entry: PlanEntry,
        model: Model,
        leaving: Callable[[int], None],
        done: Callable[[Orders | EdgevitError], None],
    ) -> None:
        """Bring a plan to its workers, in a thread.

        Args:
            entry: the plan.
            model: that it is of.
            leaving: called with its generation once workers are about to be told, and stop what they do.
            done: called at the end with orders, to be closed, or with what went wrong.
        """
        import zenoh

        self._generation += 1
        generation = self._generation

        def deploy() -> None:
            # What is exported only now is not this terminal's progress.
            progress.silence()
            try:
                result: Orders | EdgevitError = self._deploy(entry, model, generation, leaving)
            except EdgevitError as error:
                result = error
            except zenoh.ZError as error:
                # The session was closed meanwhile.
                result = EdgevitError(str(error))
            if self.is_latest(generation):
                done(result)
            elif isinstance(result, Orders):
                result.close()

        threading.Thread(target=deploy, name=f"deploy-{generation}").start()

    def _deploy(
        self, entry: PlanEntry, model: Model, generation: int, leaving: Callable[[int], None]
    ) -> Orders:
        layout = model.layout(entry)
        for each in (layout, *self._spares):
            self._pieces |= {piece.artefact.sha256: piece for piece in each.pieces}
        announcements = {device: self._fleet.announcement(device) for device in layout.devices}
        for announcement in announcements.values():
            _check_formats(announcement, layout)
        self._wait_for_links(layout, {name: each.session for name, each in announcements.items()}, generation)
        self._check_latest(generation)
        leaving(generation)
        blank = Assignment(self._name, generation, self._capacity)
        assignments = layout.assignments(blank)
        self._fleet.assign(
            {device: replace(each, keep=self._keep(device)) for device, each in assignments.items()},
            _ASSIGN_SECONDS,
        )
        orders = Orders(self._session, self._name, generation, entry, layout)
        try:
            self._wait_until_ready(orders)
        except EdgevitError:
            orders.close()
            raise
        return orders

    def _keep(self, device: str) -> tuple[Artefact, ...]:
        """Files that a device may need."""
        pieces = [
            step.piece.artefact
            for layout in self._spares
            for lane in layout.lanes
            for step in lane.steps
            if step.device == device
        ]
        return tuple(dict.fromkeys(pieces))

    def _wait_for_links(self, layout: Layout, sessions: Mapping[str, str], generation: int) -> None:
        """Wait until whoever sends is linked to whoever gets it: a plan that runs is not left before."""

        def apart() -> list[tuple[str, str]]:
            statuses = self._fleet.statuses({sender for sender, _ in layout.lines})
            linked = {name: () if status is None else status.links for name, status in statuses.items()}
            return [line for line in layout.lines if sessions[line[1]] not in linked[line[0]]]

        until = time.monotonic() + _LINK_SECONDS
        while lines := apart():
            self._check_latest(generation)
            if time.monotonic() > until:
                raise ApartError(lines)
            time.sleep(0.02)

    def _wait_until_ready(self, orders: Orders) -> None:
        """Wait until everyone sees whom it sends to."""
        until = time.monotonic() + _READY_SECONDS
        while not (orders.seen and self._all_ready(orders)):
            self._check_latest(orders.generation)
            if time.monotonic() > until:
                raise EdgevitError(f"{', '.join(orders.layout.devices)}: they do not get ready")
            time.sleep(0.01)

    def _check_latest(self, generation: int) -> None:
        if not self.is_latest(generation):
            raise EdgevitError("another plan was ordered meanwhile")

    def _all_ready(self, orders: Orders) -> bool:
        statuses = self._fleet.statuses(orders.layout.devices).values()
        return all(
            status is not None
            and status.generation == orders.generation
            and all(task.ready for task in status.tasks)
            for status in statuses
        )

    def _bytes_of(self, query: zenoh.Query) -> None:
        """Answer a worker that asks for a part of a file."""
        piece = self._pieces.get(str(query.key_expr).rsplit("/", 1)[-1])
        offset = query.parameters.get("offset") or ""
        if piece is None or not (offset.isascii() and offset.isdigit()):
            query.reply_err("no such artefact, or no offset")
            return
        with piece.path.open("rb") as stream:
            stream.seek(int(offset))
            query.reply(query.key_expr, stream.read(_CHUNK))


def _check_formats(announcement: Announcement, layout: Layout) -> None:
    needed = {
        step.piece.artefact.format
        for lane in layout.lanes
        for step in lane.steps
        if step.device == announcement.name
    }
    absent = needed - set(announcement.formats)
    if absent:
        raise EdgevitError(
            f"{announcement.name} does not run {', '.join(sorted(absent))} but "
            f"{', '.join(announcement.formats)}: install a runtime there, or plan with another format"
        )
