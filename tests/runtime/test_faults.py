"""Devices that die, hang, come back, or send nonsense: no request is lost, none is answered twice."""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("zenoh")
pytest.importorskip("onnxruntime")

from edgevit.planning.plan_file import PlanFile
from edgevit.pruning.split import read_split
from edgevit.runtime import transport
from edgevit.runtime.access import EVERYONE
from edgevit.runtime.coordinator import Coordinator, CoordinatorOptions
from edgevit.runtime.ledger import UnansweredError
from edgevit.runtime.local import local_workers
from edgevit.runtime.models import open_model
from edgevit.runtime.survivors import spare_plans
from edgevit.runtime.transport import Links
from edgevit.runtime.wire import NO_REQUEST, Envelope, Fault, Tensors, encode
from tests.pruning.patterns import patterns
from tests.runtime.conftest import images

OPTIONS = CoordinatorOptions(patience=0.5, probation=60.0, gather=20.0, hopeless=20.0)


class Work:
    """A plan on local workers, and what it is asked."""

    def __init__(self, path, origin, options=OPTIONS):
        self.plan = PlanFile.read(path)
        self.model = open_model(self.plan, origin, path.with_suffix(".pieces"))
        spares = [self.model.layout(entry) for entry in (self.plan.plan, *spare_plans(self.plan))][1:]
        self._workers = local_workers([device.name for device in self.plan.devices], path.with_suffix(".log"))
        self.workers = self._workers.__enter__()
        links = Links(listen=(self.workers.address,))
        self.coordinator = Coordinator(self.plan, self.model, links, options, spares)

    def __enter__(self):
        self.coordinator.wait_until_ready(60)
        return self

    def __exit__(self, *_):
        for process in self.workers.processes.values():
            os.kill(process.pid, signal.SIGCONT) if process.poll() is None else None
        self.coordinator.close()
        self._workers.__exit__(None, None, None)

    def ask(self, sent, **options):
        return [self.coordinator.submit({"image": image}, **options) for image in sent]

    def send_signal(self, name, number):
        os.kill(self.workers.processes[name].pid, number)

    def wait_for(self, devices):
        until = time.monotonic() + 30
        while set(self.devices) != set(devices):
            assert time.monotonic() < until, self.devices
            time.sleep(0.02)

    @property
    def devices(self):
        orders = self.coordinator.running
        return () if orders is None else orders.layout.devices


@pytest.fixture
def work(make_plan, tiny_pt2):
    with Work(make_plan("pipeline"), tiny_pt2) as started:
        yield started


def expected(program, sent):
    return program.run(sent[:, 0])[0]


def logits(futures):
    return np.concatenate([future.result(60).outputs["logits"] for future in futures])


def test_what_a_killed_worker_had_is_answered_by_the_others_and_it_may_come_back(work, tiny_program):
    sent = images(300)
    asked = Counter()
    futures = []
    for place, image in enumerate(sent):
        if place == 100:
            work.send_signal("w-2", signal.SIGKILL)
        futures += work.ask([image])
        futures[-1].add_done_callback(lambda _, place=place: asked.update([place]))
    np.testing.assert_allclose(logits(futures), expected(tiny_program, sent), atol=1e-5)
    assert set(asked.values()) == {1}
    assert len(asked) == 300
    assert "w-2" not in work.devices
    assert len(work.coordinator._dispatch.ledger) == 0

    work.workers.start("w-2")
    work.wait_for(["w-1", "w-2", "w-3"])
    np.testing.assert_allclose(logits(work.ask(sent[:20])), expected(tiny_program, sent[:20]), atol=1e-5)
    assert work.coordinator.switches == 2


def test_a_worker_that_hangs_is_found_and_does_nothing_more(work, tiny_program):
    sent = images(30)
    work.send_signal("w-1", signal.SIGSTOP)
    np.testing.assert_allclose(logits(work.ask(sent)), expected(tiny_program, sent), atol=1e-5)
    assert "w-1" not in work.devices


def test_without_any_plan_for_those_that_are_left_requests_wait_and_then_fail(make_plan, tiny_pt2):
    options = CoordinatorOptions(patience=0.5, gather=20.0, hopeless=1.0)
    with Work(make_plan("pipeline"), tiny_pt2, options) as work:
        for name in ("w-1", "w-2", "w-3"):
            work.send_signal(name, signal.SIGKILL)
        with pytest.raises(UnansweredError, match="no plan for the devices that are left"):
            logits(work.ask(images(2)))
        assert not work.coordinator.ready
        for name in ("w-1", "w-2", "w-3"):
            work.workers.start(name)
        work.wait_for(["w-1", "w-2", "w-3"])
        assert logits(work.ask(images(2))).shape == (2, 3)


def test_a_request_that_is_late_fails_and_harms_no_other(work):
    work.send_signal("w-1", signal.SIGSTOP)
    with pytest.raises(UnansweredError, match="within the deadline"):
        work.ask(images(1), deadline=0.1)[0].result(30)
    work.send_signal("w-1", signal.SIGCONT)
    assert logits(work.ask(images(3))).shape == (3, 3)


def test_nonsense_on_any_key_is_dropped_and_what_is_missed_is_sent_again(work, tiny_program):
    stranger = transport.open_session(Links(connect=(work.workers.address,)))
    orders, identity = work.coordinator.running, work.coordinator._deployment._name
    good = encode(
        Tensors(Envelope(secrets.token_bytes(16), generation=orders.generation), {"image": images(1)[0]})
    )
    keys = [
        transport.answer_key(identity, "w-3"),
        *(transport.task_key(identity, orders.generation, f"w-{n + 1}", *t) for n, t in enumerate(TOPICS)),
    ]
    publishers = [stranger.declare_publisher(key) for key in keys]
    until = time.monotonic() + 10
    while not all(map(transport.is_heard, publishers)):
        assert time.monotonic() < until
        time.sleep(0.02)
    for publisher in publishers:
        for payload in (b"", b"\x80\x04K\x01.", good[:-1], good[:60] + b"\xff" + good[61:], good):
            publisher.put(payload)
    sent = images(20)
    np.testing.assert_allclose(logits(work.ask(sent)), expected(tiny_program, sent), atol=1e-5)
    refused = sum(task.refused for status in work.coordinator.statuses().values() for task in status.tasks)
    assert refused > 0
    assert work.coordinator.switches == 0
    stranger.close()


TOPICS = (("entry", "coordinator"), ("stage-0-1", "w-1"), ("stage-0-2", "w-2"))


def test_a_worker_that_cannot_reach_the_next_one_joins_anew_and_then_rests(work, tiny_program, monkeypatch):
    """The line between two workers is cut, those to the coordinator are not."""
    monkeypatch.setattr(work.coordinator._steering, "_probation", 60.0)
    stranger = transport.open_session(Links(connect=(work.workers.address,)))
    identity, fleet = work.coordinator._deployment._name, work.coordinator._fleet
    said = stranger.declare_publisher(transport.answer_key(identity, "w-2"))
    until = time.monotonic() + 10
    while not said.matching_status.matching:
        assert time.monotonic() < until

    def complain():
        envelope = Envelope(NO_REQUEST, generation=work.coordinator.running.generation)
        said.put(encode(Fault(envelope, "w-3 is not reached")))

    before = fleet.present["w-2"]
    complain()
    while fleet.present.get("w-2") in {before, None}:
        assert time.monotonic() < until
        time.sleep(0.02)
    work.wait_for(["w-1", "w-2", "w-3"])
    sent = images(20)
    np.testing.assert_allclose(logits(work.ask(sent)), expected(tiny_program, sent), atol=1e-5)
    # That did not help: it is left out.
    complain()
    work.wait_for(["w-1", "w-3"])
    np.testing.assert_allclose(logits(work.ask(sent)), expected(tiny_program, sent), atol=1e-5)
    stranger.close()


def test_a_frame_that_is_lost_on_its_way_is_sent_again_and_nobody_is_blamed(work, tiny_program):
    orders = work.coordinator.running
    send, dropped = orders.send, []

    def lossy(request, data, ledger):
        if request.attempts == 1 and not dropped:
            dropped.append(request.id)
            data = data[:-1]
        send(request, data, ledger)

    orders.send = lossy
    sent = images(5)
    futures = work.ask(sent)
    np.testing.assert_allclose(logits(futures), expected(tiny_program, sent), atol=1e-5)
    assert [future.result().attempts for future in futures].count(2) >= 1
    assert work.coordinator.switches == 0


def test_a_coordinator_that_starts_anew_takes_the_workers_over(work, tiny_program):
    links = Links(connect=(work.workers.address,))
    second = Coordinator(work.plan, work.model, links, OPTIONS)
    try:
        second.wait_until_ready(60)
        sent = images(5)
        found = [second.submit({"image": image}).result(30).outputs["logits"] for image in sent]
        np.testing.assert_allclose(np.concatenate(found), expected(tiny_program, sent), atol=1e-5)
    finally:
        second.close()


def test_workers_that_were_taken_and_left_by_another_coordinator_are_told_again(work, tiny_program):
    second = Coordinator(work.plan, work.model, Links(connect=(work.workers.address,)), OPTIONS)
    second.wait_until_ready(60)
    # They rest now, and are there as they were.
    second.close()
    sent = images(5)
    np.testing.assert_allclose(logits(work.ask(sent)), expected(tiny_program, sent), atol=1e-5)
    assert work.coordinator.switches == 1


def test_a_worker_whose_line_was_cut_while_nobody_looked_is_told_again(work, tiny_program):
    coordinator, fleet, looks = work.coordinator, work.coordinator._fleet, threading.Event()
    key = transport.alive_key("w-2", EVERYONE, fleet.present["w-2"].instance)
    coordinator._conductor.tell(looks.wait)
    for kind in ("DELETE", "PUT"):
        fleet._token(SimpleNamespace(key_expr=key, kind=f"SampleKind.{kind}"))
    looks.set()
    until = time.monotonic() + 10
    while coordinator.switches == 0:
        assert time.monotonic() < until
        time.sleep(0.02)
    sent = images(5)
    np.testing.assert_allclose(logits(work.ask(sent)), expected(tiny_program, sent), atol=1e-5)


def test_an_ensemble_answers_what_the_split_does(ensemble):
    split = read_split(ensemble.parent / "split")
    sent = patterns(12, seed=3)[0].numpy()[:, None]
    with Work(ensemble, ensemble.parent / "split") as work:
        futures = work.ask(sent)
        np.testing.assert_allclose(logits(futures), split.predict(sent[:, 0]), atol=1e-4)
        assert not any(future.result().degraded for future in futures)
        assert len(work.devices) == 3


def test_an_ensemble_answers_by_its_deadline_without_a_part_that_hangs(ensemble):
    split = read_split(ensemble.parent / "split")
    sent = patterns(3, seed=3)[0].numpy()[:, None]
    patient = CoordinatorOptions(patience=20.0)
    with Work(ensemble, ensemble.parent / "split", patient) as work:
        (parts,) = (task.parts for task in work.plan.plan.tasks if task.device == "w-1")
        work.send_signal("w-1", signal.SIGSTOP)
        futures = work.ask(sent, deadline=1.0)
        np.testing.assert_allclose(logits(futures), split.predict(sent[:, 0], missing=parts), atol=1e-4)
        assert all(future.result().degraded for future in futures)


def test_an_ensemble_that_loses_a_device_is_whole_again_on_the_others(ensemble):
    split = read_split(ensemble.parent / "split")
    sent = patterns(12, seed=3)[0].numpy()[:, None]
    with Work(ensemble, ensemble.parent / "split") as work:
        work.send_signal("w-3", signal.SIGKILL)
        work.wait_for(["w-1", "w-2"])
        futures = work.ask(sent)
        np.testing.assert_allclose(logits(futures), split.predict(sent[:, 0]), atol=1e-4)
        assert not any(future.result().degraded for future in futures)
