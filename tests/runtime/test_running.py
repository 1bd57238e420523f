"""Plans run by real worker processes: what they answer, in which order, and as what."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("zenoh")
pytest.importorskip("onnxruntime")

import edgevit
from edgevit.cli import run
from edgevit.errors import EdgevitError
from edgevit.export.artefacts import open_artefact
from edgevit.planning.plans import PlanOptions, plan
from edgevit.runtime.ledger import UnansweredError
from edgevit.runtime.running import RunOptions, run_images, running
from tests.runtime.conftest import images


@pytest.fixture(scope="module")
def work(make_plan):
    with running(make_plan("pipeline"), RunOptions(local=True)) as coordinator:
        yield coordinator


def chained(layout, image):
    """What the files of a layout give, run here one after the other."""
    known = {layout.lanes[0].steps[0].piece.takes[0]: image}
    for step in layout.lanes[0].steps:
        results = open_artefact(step.piece.path).run(*(known[name] for name in step.piece.takes))
        known |= zip(step.piece.gives, results, strict=True)
    return known["logits"]


def test_a_pipeline_answers_what_its_files_do_to_the_bit_and_in_order(work):
    sent = images(40)
    # Others have asked the same workers.
    before = run_images(work, iter(sent[:1]), 1)
    result = run_images(work, iter(sent), len(sent))
    expected = np.concatenate([chained(work.running.layout, image) for image in sent])
    assert len(work.running.layout.devices) == 3
    np.testing.assert_array_equal(result.outputs["logits"], expected)
    assert (result.n, result.degraded, result.repeated, result.switches) == (40, 0, 0, 0)
    runs = [step.runs - earlier.runs for step, earlier in zip(result.steps, before.steps, strict=True)]
    assert runs == [40, 40, 40]


def test_a_pipeline_answers_what_the_one_artefact_does(work, tiny_onnx):
    sent = images(8)
    result = run_images(work, iter(sent), len(sent))
    np.testing.assert_array_equal(result.outputs["logits"], open_artefact(tiny_onnx).run(sent[:, 0])[0])


def test_many_may_ask_at_once(work, tiny_program):
    sent = images(60)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda image: work.submit({"image": image}).result(30), sent))
    found = np.concatenate([answer.outputs["logits"] for answer in answers])
    np.testing.assert_allclose(found, tiny_program.run(sent[:, 0])[0], atol=1e-5)


def test_what_a_runtime_refuses_is_said_to_who_asked_and_harms_nobody(work):
    with pytest.raises(UnansweredError, match="tried 3 times in vain.*the runtime refuses the tensors"):
        work.submit({"image": images(1)[0][:, :, :5]}).result(30)
    with pytest.raises(UnansweredError, match="image is missing"):
        work.submit({"picture": images(1)[0]}).result(30)
    assert len(run_images(work, iter(images(2)), 2).outputs["logits"]) == 2


def test_there_is_no_place_for_more_than_may_be_on_their_way(work):
    work._conductor.tell(lambda: __import__("time").sleep(0.5))
    asked = [work.submit({"image": image}, wait=0.01) for image in images(work.in_flight)]
    with pytest.raises(UnansweredError, match="on their way already"):
        work.submit({"image": images(1)[0]}, wait=0.01)
    assert all(future.result(30).outputs for future in asked)


def test_replicas_share_what_is_asked(make_plan, tiny_program):
    with running(make_plan("replicas"), RunOptions(local=True)) as coordinator:
        sent = images(30)
        result = run_images(coordinator, iter(sent), len(sent))
    np.testing.assert_allclose(result.outputs["logits"], tiny_program.run(sent[:, 0])[0], atol=1e-5)
    assert [step.runs for step in result.steps] == [10, 10, 10]


TWO_FORMATS = """\
version: 1
networks: [{name: lan, bytes_per_second: 1.0e+9}]
devices:
  - {name: o, memory_bytes: 1.0e+9, macs_per_second: 1.0e+6, network: lan}
  - {name: t, memory_bytes: 1.0e+9, macs_per_second: 1.0e+6, network: lan, format: tflite}
"""


def test_devices_of_two_formats_work_together_and_send_halves(tiny_pt2, tiny_program, tmp_path):
    pytest.importorskip("litert_torch")
    cluster, path = tmp_path / "cluster.yaml", tmp_path / "plan.yaml"
    cluster.write_text(TWO_FORMATS)
    made = plan(tiny_pt2, devices=cluster, options=PlanOptions(mode="pipeline"))
    # Nothing on this fast line makes it pay to narrow: it is asked for.
    first, second = made.plan.tasks
    halves = first.sent.model_copy(update={"precision": "fp16"})
    tasks = (first.model_copy(update={"sent": halves}), second)
    made.model_copy(update={"plan": made.plan.model_copy(update={"tasks": tasks})}).write(path)
    with running(path, RunOptions(local=True, spares=False)) as coordinator:
        sent = images(10)
        result = run_images(coordinator, iter(sent), len(sent))
        formats = [piece.artefact.format for piece in coordinator.running.layout.pieces]
    assert sorted(formats) == ["onnx", "tflite"]
    crossing = result.steps[0].sent / result.steps[1].received
    assert crossing == pytest.approx(1)
    assert result.steps[0].sent < 0.75 * first.sent.bytes
    np.testing.assert_allclose(result.outputs["logits"], tiny_program.run(sent[:, 0])[0], atol=5e-3)


def test_from_python(make_plan, tiny_program):
    sent = images(4)[:, 0]
    options = edgevit.RunOptions(local=True, spares=False)
    result = edgevit.run(make_plan("single"), sent, options=options)
    np.testing.assert_allclose(result.outputs["logits"], tiny_program.run(sent)[0], atol=1e-5)
    with pytest.raises(EdgevitError, match=r"images: their shape is \(4, 3, 8, 8\)"):
        edgevit.run(make_plan("single"), sent[:, :, :8, :8], options=options)


def test_the_command_says_what_was_measured_beside_what_was_planned(make_plan, image_folder, capsys):
    path = str(make_plan("pipeline"))
    assert run(["run", path, "--local", "--data", str(image_folder)]) == 0
    found = capsys.readouterr().out
    assert "of the planned" in found
    assert "top-1" in found
    assert run(["run", path, "--local", "--noise", "20", "--json", "--no-spares"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["n"] == 20
    assert [step["device"] for step in report["steps"]] == ["w-1", "w-2", "w-3"]


def test_fewer_workers_run_the_plan_that_is_for_them_and_name_classes(make_plan, image_folder, capsys):
    files = [str(path) for path in sorted(image_folder.rglob("*.png"))[:3]]
    words = [word for file in files for word in ("--images", file)]
    assert run(["run", str(make_plan("pipeline")), "--local", "2", "--no-spares", "--json", *words]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {step["device"] for step in report["steps"]} == {"w-1", "w-2"}
    assert list(report["classes"]) == files
    assert {name for name, _ in report["classes"].values()} <= {"circle", "square", "cross"}


def test_a_device_whose_name_cannot_be_a_key_is_refused(make_plan, tmp_path, capsys):
    path = tmp_path / "plan.yaml"
    path.write_text(make_plan("pipeline").read_text().replace("w-1", "my board"))
    assert run(["run", str(path), "--local", "--noise", "1"]) == 2
    assert "plan.yaml: device 'my board': use letters" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--local"], "give one of --data DIR, --images FILE, --noise N"),
        (["--noise", "1", "--local", "4"], "--local 4:"),
        (["--noise", "1", "--local", "1"], "has no plan for w-1 alone"),
        (["--noise", "1", "--local", "some"], "'some' is not a valid integer"),
        (["--images", "none.jpg", "--local", "2"], "none.jpg"),
        (["--noise", "1", "--local", "--listen", "127.0.0.1:7000"], "--local: workers are on this machine"),
        (["--noise", "1", "--listen", "0.0.0.0:7447"], "--insecure"),
        (["--noise", "1", "--connect", "nowhere"], "write HOST:PORT"),
        (["--noise", "1", "--tls", "nowhere"], "has no authority.pem"),
        (["--noise", "1", "--in-flight", "0"], "--in-flight 0"),
        (["--noise", "1", "--model", "none.pt2"], "none.pt2"),
        (["--noise", "1", "--wait", "0.1"], "w-1, w-2, w-3 did not come"),
    ],
)
def test_a_mistake_is_one_sentence(make_plan, capsys, words, sentence):
    assert run(["run", str(make_plan("pipeline")), *words]) in {1, 2}
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
