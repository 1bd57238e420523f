"""A device's part of a plan: it runs the stages that it is assigned, and never any code that is sent.

Needs numpy, eclipse-zenoh and one runtime (onnxruntime or ai-edge-litert), and of edgevit only what needs
no more than these, so that it fits a device.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.errors import EdgevitError
from edgevit.runtime import transport
from edgevit.runtime.access import EVERYONE, group_of, worker_rules
from edgevit.runtime.cache import Cache, default_folder
from edgevit.runtime.engines import Engine, available, open_engine
from edgevit.runtime.messages import (
    Admission,
    Announcement,
    Artefact,
    Assignment,
    MessageError,
    Status,
    check_device,
    read,
    write,
)
from edgevit.runtime.stage import Stage

if TYPE_CHECKING:
    import zenoh

_log = logging.getLogger("edgevit.worker")

# For one chunk of an artefact.
_FETCH_SECONDS = 20.0


@dataclass(frozen=True)
class WorkerOptions:
    """How a worker is.

    Attributes:
        name: what it is called in plans.
        links: how it meets others.
        threads: that one run may take.
        cache: folder of artefacts.
        cache_limit: bytes of all of them.
        profile: a device profile's file, to be told apart by its SHA-256.
    """

    name: str
    links: transport.Links
    threads: int = 1
    cache: Path | None = None
    cache_limit: int = 2 * 10**9
    profile: Path | None = None

    def __post_init__(self) -> None:
        check_device(self.name, "--name")
        if self.threads < 1:
            raise EdgevitError(f"--threads {self.threads}: at least 1 is needed")
        if self.profile is not None and not self.profile.is_file():
            raise EdgevitError(f"--profile {self.profile}: does not exist")


class Worker:
    """A worker on the network.

    Args:
        options: how it is.

    Raises:
        EdgevitError: when it has no runtime, or cannot join the network.
    """

    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        self._runtimes = available()
        if not self._runtimes:
            raise EdgevitError(
                "a worker needs a runtime: run `pip install onnxruntime` or `pip install ai-edge-litert`"
            )
        self._cache = Cache(options.cache or default_folder(), options.cache_limit)
        self._engines: dict[str, Engine] = {}
        self._stages: dict[str, Stage] = {}
        self._assignment: Assignment | None = None
        self._assigning = threading.Lock()
        self._closed = threading.Event()
        self._join(())

    def _join(self, devices: Sequence[str]) -> None:
        """Join the network, with these devices alone where certificates tell who they are."""
        options = self._options
        self._session = transport.open_session(options.links, worker_rules(options.name, devices))
        self._devices = tuple(devices)
        self._group = EVERYONE if options.links.tls is None else group_of(devices)
        self.announcement = _announcement(options, self._runtimes, str(self._session.zid()))
        self._declared = self._declare()

    def _declare(self) -> list[object]:
        name, session = self._options.name, self._session
        return [
            session.declare_queryable(transport.worker_key(name, "about"), self._about),
            session.declare_queryable(transport.worker_key(name, "admit"), self._admit),
            session.declare_queryable(transport.worker_key(name, "rejoin"), lambda _: self._rejoin()),
            session.declare_queryable(transport.worker_key(name, "assign"), self._assign),
            session.declare_queryable(transport.worker_key(name, "status"), self._status),
            session.liveliness().declare_subscriber(
                transport.coordinator_key("*"), self._coordinator_changed
            ),
            # Last: whoever sees the token may ask.
            session.liveliness().declare_token(
                transport.alive_key(name, self._group, self.announcement.instance)
            ),
        ]

    def close(self) -> None:
        """Leave the network; what waits is dropped, and its sender will notice."""
        self._closed.set()
        with self._assigning:
            self._release()
            self._session.close()

    def _about(self, query: zenoh.Query) -> None:
        query.reply(query.key_expr, write(self.announcement))

    def _status(self, query: zenoh.Query) -> None:
        assignment = self._assignment
        deployment, generation = ("", 0) if assignment is None else _whose(assignment)
        stages = tuple(stage.status() for stage in self._stages.values())
        links = tuple(str(each) for each in self._session.info.peers_zid())
        query.reply(query.key_expr, write(Status(deployment, generation, stages, links)))

    def _admit(self, query: zenoh.Query) -> None:
        threading.Thread(target=self._admit_and_reply, args=(query,)).start()

    def _admit_and_reply(self, query: zenoh.Query) -> None:
        try:
            devices = read(Admission, _payload(query)).devices
            if self._options.name not in devices:
                raise MessageError(f"{self._options.name} is not among the devices that it is to work with")
        except EdgevitError as error:
            _log.warning("refused: %s", error)
            query.reply_err(str(error))
            return
        else:
            # Before it is done: whoever asked is not heard any more while it is.
            query.reply(query.key_expr, b"ready")
        finally:
            query.drop()
        with self._assigning:
            if self._group not in {EVERYONE, group_of(devices)}:
                self._join_anew(devices)

    def _rejoin(self) -> None:
        # A reply would not be sent any more: that it goes, and comes back, is answer enough.
        threading.Thread(target=self._rejoin_now).start()

    def _rejoin_now(self) -> None:
        with self._assigning:
            if not self._closed.is_set():
                self._join_anew(self._devices)

    def _join_anew(self, devices: Sequence[str]) -> None:
        """Leave the network and come back: neither rules nor whom it is linked to can be changed."""
        self._release()
        self._session.close()
        while not self._closed.is_set():
            try:
                self._join(devices)
            except EdgevitError as error:
                _log.warning("%s; trying again", error)
                self._closed.wait(1)
            else:
                _log.info("joined again, instance %s", self.announcement.instance)
                return

    def _assign(self, query: zenoh.Query) -> None:
        # Fetching and loading take seconds, in which the network's own thread must not be held.
        threading.Thread(target=self._assign_and_reply, args=(query,)).start()

    def _assign_and_reply(self, query: zenoh.Query) -> None:
        try:
            assignment = read(Assignment, _payload(query))
            with self._assigning:
                self._take(assignment)
        except EdgevitError as error:
            _log.warning("refused: %s", error)
            query.reply_err(str(error))
        else:
            query.reply(query.key_expr, b"ready")
        finally:
            query.drop()

    def _take(self, assignment: Assignment) -> None:
        """Do this from now on, instead of what was done before."""
        current = self._assignment
        if (
            current is not None
            and current.deployment == assignment.deployment
            and assignment.generation <= current.generation
        ):
            raise MessageError(
                f"generation {assignment.generation} is over: {current.generation} was assigned"
            )
        self._release()
        wanted = {task.artefact.sha256: task.artefact for task in assignment.tasks}
        engines = {sha: self._engine(assignment, each) for sha, each in wanted.items()}
        self._engines, self._assignment = engines, assignment
        for task in assignment.tasks:
            self._stages[task.key] = Stage(
                self._session, self._options.name, assignment, task, engines[task.artefact.sha256]
            )
        for artefact in assignment.keep:
            self._file(assignment, artefact)
        if assignment.tasks:
            keys = ", ".join(task.key for task in assignment.tasks)
            _log.info("runs %s, generation %d of %s", keys, assignment.generation, assignment.deployment)

    def _engine(self, assignment: Assignment, artefact: Artefact) -> Engine:
        if artefact.sha256 in self._engines:
            return self._engines[artefact.sha256]
        return open_engine(self._file(assignment, artefact), artefact.format, self._options.threads)

    def _file(self, assignment: Assignment, artefact: Artefact) -> Path:
        key = transport.artefact_key(assignment.deployment, artefact.sha256)
        used = {each.artefact.sha256 for each in assignment.tasks}
        return self._cache.get(artefact, lambda offset: self._fetched(key, offset), used)

    def _fetched(self, key: str, offset: int) -> bytes:
        for reply in self._session.get(f"{key}?offset={offset}", timeout=_FETCH_SECONDS):
            sample = reply.ok
            if sample is not None:
                return sample.payload.to_bytes()
        raise EdgevitError("nobody gives the bytes of an artefact that was assigned")

    def _release(self) -> None:
        for stage in self._stages.values():
            stage.close()
        self._stages, self._assignment = {}, None

    def _coordinator_changed(self, sample: zenoh.Sample) -> None:
        assignment = self._assignment
        if assignment is None or str(sample.kind) != "SampleKind.DELETE":
            return
        if str(sample.key_expr) == transport.coordinator_key(assignment.deployment):
            _log.info("rests: the coordinator of %s has gone", assignment.deployment)
            threading.Thread(target=self._rest, args=(assignment,)).start()

    def _rest(self, assignment: Assignment) -> None:
        with self._assigning:
            if self._assignment is assignment:
                self._release()


def _payload(query: zenoh.Query) -> bytes:
    return b"" if query.payload is None else query.payload.to_bytes()


def _whose(assignment: Assignment) -> tuple[str, int]:
    return assignment.deployment, assignment.generation


def _announcement(options: WorkerOptions, runtimes: dict[str, str], session: str) -> Announcement:
    profile = "" if options.profile is None else hashlib.sha256(options.profile.read_bytes()).hexdigest()
    return Announcement(
        name=options.name,
        instance=secrets.token_hex(8),
        session=session,
        formats=tuple(sorted(runtimes)),
        runtime=", ".join(runtimes[name] for name in sorted(runtimes)),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        profile=profile,
    )


def work(options: WorkerOptions, wait: Callable[[], None]) -> None:
    """Be a worker until `wait` returns.

    Raises:
        EdgevitError: as `Worker`.
    """
    worker = Worker(options)
    about = worker.announcement
    _log.info("%s is there: %s, instance %s", about.name, about.runtime, about.instance)
    try:
        wait()
    finally:
        worker.close()
