"""Keys and who may say what: a plan runs with them, and nobody else gets a word in."""

from __future__ import annotations

import shutil
import socket
import stat
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
from edgevit.runtime.coordinator import Coordinator, CoordinatorOptions
from edgevit.runtime.keys import make_authority, make_device
from edgevit.runtime.ledger import UnansweredError
from edgevit.runtime.models import open_model
from edgevit.runtime.transport import Links
from edgevit.runtime.worker import Worker, WorkerOptions
from tests.runtime.conftest import images

NAMES = ("w-1", "w-2", "w-3")


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    for authority in ("ours", "theirs"):
        make_authority(folder / authority)
        for name in ("coordinator", *NAMES):
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


def test_nobody_speaks_under_another_ones_name(keys, make_plan, tiny_pt2):
    where = address()
    plan = PlanFile.read(make_plan("pipeline"))
    model = open_model(plan, tiny_pt2, make_plan("pipeline").with_suffix(".pieces"))
    links = Links(listen=(where,), tls=keys / "ours" / "coordinator")
    coordinator = Coordinator(plan, model, links, CoordinatorOptions())
    session = transport.open_session(Links(connect=(where,), tls=keys / "ours" / "w-2"))
    try:
        tokens = [
            session.liveliness().declare_token(transport.alive_key(name, "x"))
            for name in ("w-1", "w-2", "w-3")
        ]
        until = time.monotonic() + 10
        while not coordinator._fleet.instances and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(0.2)
        assert len(tokens) == 3
        assert coordinator._fleet.instances == {"w-2": "x"}
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
