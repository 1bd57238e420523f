"""Deploy: everything is made, measured and reported, or nothing is left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgevit import Program, deploy, evaluate, predict, verify
from edgevit.cli.deploy import print_deployment
from edgevit.deployment import preflight
from edgevit.errors import CheckFailedError, EdgevitError
from edgevit.export.metadata import Metadata
from tests.conftest import LABELS, write_folder
from tests.prediction.helpers import profile_file
from tests.test_onnx import damaged_exporter

pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def made(tiny_program, tmp_path_factory):
    root = tmp_path_factory.mktemp("deploy")
    images = write_folder(root / "images")
    return deploy(tiny_program, data=images, output=root / "out", threads=1), images


def test_everything_is_there(made):
    deployment, _ = made
    assert sorted(path.name for path in deployment.folder.iterdir()) == [
        "metadata.json",
        "model.onnx",
        "program.pt2",
        "report.html",
        "report.json",
    ]
    assert deployment.passed


def test_what_it_left_is_what_it_measured(made):
    deployment, images = made
    (artefact,) = deployment.artefacts
    path = artefact.exported.path
    assert path == deployment.folder / "model.onnx"
    assert evaluate(path, data=images).top1 == artefact.evaluation.top1
    assert verify(path, against=Program.load(deployment.folder / "program.pt2")).passed
    assert (
        Metadata.read(deployment.folder / "metadata.json").artefacts["model.onnx"].bytes
        == path.stat().st_size
    )
    assert artefact.latency.artefact == str(path)
    assert artefact.agreement == 100.0


def test_the_report_says_what_was_measured(made):
    deployment, _ = made
    report = json.loads((deployment.folder / "report.json").read_text())
    assert report["version"] == 2
    assert report["target"] is None
    assert report["model"]["top1"] == deployment.evaluation.top1
    (artefact,) = report["artefacts"]
    assert artefact["passed"] is True
    assert artefact["latency"]["p50_ms"] == deployment.artefacts[0].latency.percentile(50)
    assert len(report["mistakes"]) == len(deployment.artefacts[0].evaluation.mistakes)
    assert {mistake["label"] for mistake in report["mistakes"]} <= set(LABELS)
    assert [stage["name"] for stage in report["pipeline"]] == [
        "capture",
        "export and verify",
        "evaluate in torch",
        "evaluate model.onnx",
        "profile model.onnx",
    ]
    page = (deployment.folder / "report.html").read_text()
    assert "tiny" in page
    assert page.count("data:image/jpeg;base64,") == min(24, len(report["mistakes"]))
    assert str(deployment.folder) not in page


def test_a_device_that_runs_the_format_is_named_in_the_report(tiny_program, image_folder, tmp_path):
    deployment = deploy(tiny_program, data=image_folder, output=tmp_path / "out", device="pi 5", threads=1)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["target"] == "Raspberry Pi 5"
    assert deployment.device.name == "raspberry-pi-5"


def test_where_a_device_was_measured_its_latency_is_predicted(tiny_program, image_folder, tmp_path, capsys):
    checked = [
        {"name": f"m{n}", "family": "m", "precision": "fp32", "us": 100.0 + n, "predicted_us": 100.0}
        for n in range(4)
    ]
    board = profile_file(tmp_path / "board.yaml", models=checked)
    deployment = deploy(tiny_program, data=image_folder, output=tmp_path / "out", device=str(board))
    (item,) = deployment.artefacts
    expected = predict(item.exported.path, device=board)
    assert (item.predicted.ms, item.predicted.low_ms) == (expected.ms, expected.low_ms)
    (artefact,) = json.loads((tmp_path / "out" / "report.json").read_text())["artefacts"]
    assert artefact["predicted"]["p50_ms"] == expected.ms
    assert artefact["predicted"]["low_ms"] < expected.ms < artefact["predicted"]["high_ms"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "from operators that were measured there, with onnxruntime 1.0 and 1 thread" in page
    print_deployment(deployment)
    assert f"predicted for board: p50 {expected.ms:.2f} ms (" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"device": "coral-dev-board"}, "Coral Dev Board runs tflite, not onnx"),
        ({"device": "pixle-8"}, 'did you mean "pixel-8"'),
        ({"to": ("tflit",)}, "--to: 'tflit' is no format"),
        ({"data": "nowhere"}, "--data: nowhere does not exist"),
    ],
)
def test_what_stands_in_the_way_is_said_before_any_work(image_folder, tmp_path, options, sentence):
    with pytest.raises(EdgevitError, match=sentence):
        preflight("timm:mobilevit_xxs", **{"data": image_folder, "output": tmp_path / "out", **options})
    assert not (tmp_path / "out").exists()


def test_preflight_finds_nothing_wrong_and_does_nothing(image_folder, tmp_path):
    assert preflight("pkg:model", data=image_folder, output=tmp_path / "out") is None
    assert not (tmp_path / "out").exists()


def test_a_failure_on_the_way_leaves_nothing(tiny_program, image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("edgevit.export.onnx.to_onnx", damaged_exporter)
    with pytest.raises(CheckFailedError, match="does not compute what the program does"):
        deploy(tiny_program, data=image_folder, output=tmp_path / "deep" / "out", strict=True)
    assert not (tmp_path / "deep").exists()
    (image_folder / "circle" / "bad.png").write_text("no picture")
    with pytest.raises(EdgevitError, match=r"bad\.png is not an image"):
        deploy(tiny_program, data=image_folder, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failed_verification_is_said_in_the_report(tiny_program, image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("edgevit.export.onnx.to_onnx", damaged_exporter)
    deployment = deploy(tiny_program, data=image_folder, output=tmp_path / "out", threads=1)
    assert not deployment.passed
    assert "FAILED" in (tmp_path / "out" / "report.html").read_text()


def test_an_earlier_deployment_is_kept_unless_forced(made, tiny_program):
    deployment, images = made
    before = {path.name: path.read_bytes() for path in deployment.folder.iterdir()}
    with pytest.raises(EdgevitError, match=r"exists already; .* --force"):
        deploy(tiny_program, data=images, output=deployment.folder)
    assert {path.name: path.read_bytes() for path in deployment.folder.iterdir()} == before


def test_the_package_answers_for_its_names():
    import edgevit

    for name in edgevit.__all__:
        assert callable(getattr(edgevit, name))
    with pytest.raises(AttributeError, match="no attribute 'deplyo'"):
        _ = edgevit.deplyo
    assert Path(edgevit.__file__).with_name("py.typed").exists()
