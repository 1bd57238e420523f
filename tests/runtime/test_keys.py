"""Keys and who may say what: a plan runs with them, and nobody else gets a word in."""

from __future__ import annotations

import itertools
import re
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("zenoh")
pytest.importorskip("onnxruntime")
if shutil.which("openssl") is None:
    pytest.skip("keys are made by openssl, which is not installed", allow_module_level=True)

from edgevit.cli import run
from edgevit.planning.plan_file import PlanFile
from edgevit.runtime import transport
from edgevit.runtime.access import group_of
from edgevit.runtime.coordinator import Coordinator, CoordinatorOptions
from edgevit.runtime.keys import make_authority, make_device
from edgevit.runtime.ledger import UnansweredError
from edgevit.runtime.models import open_model
from edgevit.runtime.transport import Links
from edgevit.runtime.wire import Envelope, Tensors, encode
from edgevit.runtime.worker import Worker, WorkerOptions
from tests.runtime.conftest import images

START = "from edgevit.cli import main; main()"
NAMES = ("w-1", "w-2", "w-3")


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    for authority in ("ours", "theirs"):
        make_authority(folder / authority)
        for name in ("coordinator", "other", *NAMES):
            make_device(name, folder / authority, folder / authority / name)
    return folder


def address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def running(keys, make_plan, tiny_pt2, tmp_path):
    """A coordinator and three workers with keys; the address of each."""
    where = {name: address() for name in ("coordinator", *NAMES)}
    plan = PlanFile.read(make_plan("pipeline"))
    model = open_model(plan, tiny_pt2, make_plan("pipeline").with_suffix(".pieces"))
    links = Links(listen=(where["coordinator"],), tls=keys / "ours" / "coordinator")
    coordinator = Coordinator(plan, model, links, CoordinatorOptions(gather=30.0))
    workers = [
        Worker(
            WorkerOptions(
                name,
                Links((where[name],), (where["coordinator"],), keys / "ours" / name),
                cache=tmp_path / "cache",
            )
        )
        for name in NAMES
    ]
    try:
        coordinator.wait_until_ready(60)
        yield coordinator, where
    finally:
        coordinator.close()
        for worker in workers:
            worker.close()


def asked(session, name, question="status"):
    """Answers to a question to a worker."""
    return [reply.ok for reply in session.get(transport.worker_key(name, question), timeout=0.7)]


def test_a_plan_runs_with_keys_and_strangers_are_not_heard(running, keys, tiny_program):
    coordinator, where = running
    sent = images(5)
    found = [coordinator.submit({"image": image}).result(30).outputs["logits"] for image in sent]
    np.testing.assert_allclose(np.concatenate(found), tiny_program.run(sent[:, 0])[0], atol=1e-5)

    strangers = {
        "another authority": Links(connect=(where["w-1"],), tls=keys / "theirs" / "coordinator"),
        "no keys": Links(connect=(where["w-1"],)),
        "another worker": Links(connect=(where["w-1"],), tls=keys / "ours" / "w-2"),
    }
    for links in strangers.values():
        session = transport.open_session(links)
        time.sleep(0.5)
        assert asked(session, "w-1") == []
        session.close()
    friend = transport.open_session(Links(connect=(where["w-1"],), tls=keys / "ours" / "coordinator"))
    time.sleep(0.5)
    assert len(asked(friend, "w-1")) == 1
    friend.close()


class Spy:
    """A session with someone's keys that listens to all tensors it can, and keeps their keys."""

    def __init__(self, folder, where, deployment):
        self.heard = set()
        self.session = transport.open_session(Links(connect=tuple(where.values()), tls=folder))
        keys = ["edgevit/**", "edgevit/run/**", "edgevit/run/*/*/*/*/*", f"edgevit/run/{deployment}/**"]
        keys += [transport.answer_key(deployment, name) for name in NAMES]
        pairs = itertools.product(NAMES, ("coordinator", *NAMES))
        keys += [f"edgevit/run/*/*/{receiver}/*/{sender}" for receiver, sender in pairs]
        self.subscribers = [
            self.session.declare_subscriber(
                key, lambda sample: self.heard.add("/".join(str(sample.key_expr).split("/")[-3:]))
            )
            for key in keys
        ]
        time.sleep(1)

    def send(self, deployment, generation, image):
        """Good frames, to every stage from everyone, and as everyone's answer."""
        for lane in range(2):
            envelope = Envelope(secrets.token_bytes(16), lane=lane, generation=generation)
            frame = encode(Tensors(envelope, {"image": image, "logits": np.zeros((1, 3), np.float32)}))
            for receiver, topic in zip(NAMES, ("entry", "stage-0-1", "stage-0-2"), strict=True):
                for sender in ("coordinator", *NAMES):
                    self.session.put(
                        transport.task_key(deployment, generation, receiver, topic, sender), frame
                    )
            for name in NAMES:
                self.session.put(transport.answer_key(deployment, name), frame)
        time.sleep(0.5)
        # What it said itself.
        self.heard.clear()


def received(coordinator):
    """Bytes that each task got."""
    return {task.key: task.received for status in coordinator.statuses().values() for task in status.tasks}


@pytest.mark.parametrize(
    ("name", "hears", "reaches"),
    [
        ("other", set(), set()),
        ("w-2", {"w-2/stage-0-1/w-1"}, {"stage-0-2"}),
        ("w-3", {"w-3/stage-0-2/w-2"}, set()),
    ],
    ids=["of another plan", "in the middle", "the last"],
)
def test_a_device_hears_and_sends_only_what_is_its_own(running, keys, tiny_program, name, hears, reaches):
    coordinator, where = running
    deployment, generation = coordinator._deployment._name, coordinator.running.generation
    spy = Spy(keys / "ours" / name, where, deployment)
    try:
        spy.send(deployment, generation, images(1)[0])
        before = received(coordinator)
        sent = images(10)
        found = [coordinator.submit({"image": image}).result(30).outputs["logits"] for image in sent]
        np.testing.assert_allclose(np.concatenate(found), tiny_program.run(sent[:, 0])[0], atol=1e-5)
        after = received(coordinator)
    finally:
        spy.session.close()
    assert {key for key, received in before.items() if received} == reaches
    assert all(after.values())
    assert spy.heard == hears


REFUSALS = {
    "theirs/w-2": "zenoh_link_tls.*alert",
    None: "zenoh_link_tls.*corrupt message",
    "ours/w-2": "did not match any configured ACL subject",
}


def test_who_is_refused_is_logged_in_one_line_and_the_worker_goes_on(keys, tmp_path):
    """A certificate of another authority, none, and one of a device that is not in the plan."""
    where = address()
    words = ["worker", "--name", "w-1", "--listen", where, "--tls", str(keys / "ours" / "w-1"), "--until-eof"]
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", START, *words, "--cache", str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert "w-1 is there" in process.stdout.readline()
        for folder in REFUSALS:
            tls = None if folder is None else keys / folder
            session = transport.open_session(Links(connect=(where,), tls=tls))
            time.sleep(0.5)
            session.close()
        friend = transport.open_session(Links(connect=(where,), tls=keys / "ours" / "coordinator"))
        until = time.monotonic() + 10
        while not asked(friend, "w-1"):
            assert time.monotonic() < until
        friend.close()
    finally:
        lines = process.communicate(timeout=20)[0].splitlines()
    # Whoever is refused tries again, and is refused again.
    found = [[name for name, pattern in REFUSALS.items() if re.search(pattern, line)] for line in lines]
    assert all(len(names) == 1 for names in found), lines
    assert {names[0] for names in found} == set(REFUSALS)


def test_nobody_speaks_under_another_ones_name(keys, make_plan, tiny_pt2):
    where = address()
    plan = PlanFile.read(make_plan("pipeline"))
    model = open_model(plan, tiny_pt2, make_plan("pipeline").with_suffix(".pieces"))
    links = Links(listen=(where,), tls=keys / "ours" / "coordinator")
    coordinator = Coordinator(plan, model, links, CoordinatorOptions())
    session = transport.open_session(Links(connect=(where,), tls=keys / "ours" / "w-2"))
    try:
        tokens = [
            session.liveliness().declare_token(transport.alive_key(name, group_of(NAMES), "x"))
            for name in ("w-1", "w-2", "w-3")
        ]
        until = time.monotonic() + 10
        while not coordinator._fleet.present and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(0.2)
        assert len(tokens) == 3
        assert coordinator._fleet.present == {"w-2": ("x", 0)}
        with pytest.raises(UnansweredError, match="w-1, w-3 did not come"):
            coordinator.wait_until_ready(0.1)
    finally:
        session.close()
        coordinator.close()


def test_the_command_writes_private_keys_for_their_owner_alone(tmp_path, capsys):
    authority = str(tmp_path / "keys")
    assert run(["keys", "init", authority]) == 0
    assert run(["keys", "device", "camera", "--authority", authority]) == 0
    assert sorted(path.name for path in (tmp_path / "keys" / "camera").iterdir()) == [
        "authority.pem",
        "certificate.pem",
        "private.pem",
    ]
    for private in ("authority-private.pem", "camera/private.pem"):
        assert stat.S_IMODE((tmp_path / "keys" / private).stat().st_mode) == 0o600
    capsys.readouterr()
    assert run(["keys", "init", authority]) == 2
    assert "exists already" in capsys.readouterr().err
    assert run(["keys", "device", "a/../b", "--authority", authority]) == 2
    assert "use letters" in capsys.readouterr().err
    assert run(["keys", "device", "b", "--authority", str(tmp_path)]) == 2
    assert "has no authority.pem" in capsys.readouterr().err
