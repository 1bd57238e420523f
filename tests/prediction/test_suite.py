"""A machine measured by few models: the profile that is written, and what is predicted from it."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from edgevit import predict
from edgevit.cli import run
from edgevit.errors import EdgevitError
from edgevit.prediction.measuring import Place, time_operators
from edgevit.prediction.predicting import operations_of
from edgevit.prediction.reference import Reference, references
from edgevit.profiles import load_profile
from edgevit.profiling import Remote

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

EDGEVIT = [sys.executable, "-c", "from edgevit.cli import main; main()"]
FEW = ("--models", "deit_tiny,mobilevit_xxs", "--formats", "onnx", "--threads", "1")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The file of a machine that two models measured."""
    path = tmp_path_factory.mktemp("suite") / "My machine.yaml"
    assert run(["profile", "--suite", *FEW, "-o", str(path), "--quiet"]) == 0
    return path


def refused(capsys, status, *arguments):
    assert run(["profile", *map(str, arguments)]) == status
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1, printed.err
    return printed.err


def test_the_profile_says_what_was_measured(written):
    profile = load_profile(written)
    assert profile.name == "my-machine"
    assert not profile.is_estimate(profile.cpu)
    measured = profile.measured
    assert measured.partial is None
    assert measured.memory_bytes_per_second > 1e8
    (table,) = measured.runtimes
    assert (table.runtime, table.threads) == ("onnxruntime", 1)
    assert [(model.name, model.precision) for model in table.models] == [
        ("deit_tiny", "fp32"),
        ("deit_tiny", "int8"),
        ("mobilevit_xxs", "fp32"),
        ("mobilevit_xxs", "int8"),
    ]
    kinds = {row.kind.split()[0] for row in table.operators}
    assert kinds >= {"Conv", "Gemm", "QGemm", "QLinearConv", "LayerNormalization", "Softmax", "Transpose"}
    assert all(row.macs and row.weights for row in table.operators if "Conv " in row.kind)


def test_the_device_is_shown_with_what_was_measured(written, capsys):
    assert run(["devices", "show", str(written)]) == 0
    assert "operators in onnxruntime " in capsys.readouterr().out


def test_what_is_known_is_predicted_as_it_was_measured(written, tmp_path):
    """A model of the suite itself: its own operators are in the profile."""
    (reference, _) = references([".onnx"], ["deit_tiny"])
    found = predict(reference.unpack(tmp_path), device=written)
    (model,) = (
        each
        for each in load_profile(written).measured.of("onnxruntime").models
        if (each.name, each.precision) == ("deit_tiny", "fp32")
    )
    assert 0.6 < found.ms / (model.us / 1e3) < 1.6
    assert math.isclose(sum(kind.ms for kind in found.kinds), found.ms)
    assert found.low_ms is None
    assert any("no interval" in note for note in found.notes)


def test_a_program_is_predicted_as_its_artefact_is(written, tiny_program, tiny_onnx, tmp_path):
    path = tmp_path / "tiny.pt2"
    tiny_program.save(path)
    assert predict(path, device=written).ms == pytest.approx(predict(tiny_onnx, device=written).ms)


def test_the_command_prints_what_the_function_gives(written, tiny_onnx, capsys):
    assert run(["predict", str(tiny_onnx), "--device", str(written), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ms"] == pytest.approx(predict(tiny_onnx, device=written).ms)
    assert run(["predict", str(tiny_onnx), "--device", str(written)]) == 0
    printed = capsys.readouterr().out
    assert f"predicted {found['ms']:.2f} ms" in printed
    assert found["kinds"][0]["kind"] in printed


def test_a_profile_without_measurements_predicts_nothing(tiny_onnx):
    with pytest.raises(EdgevitError, match="pixel-8: its profile has no measured operators.*--suite"):
        predict(tiny_onnx, device="pixel-8")


def test_a_format_that_was_not_measured_is_refused(written, tiny_onnx, tmp_path):
    with pytest.raises(EdgevitError, match="nothing was measured in litert; what was is onnxruntime"):
        predict(tmp_path / "model.tflite", device=written)
    with pytest.raises(EdgevitError, match="'coreml' is not predicted"):
        predict("model.pt2", device=written, to="coreml")
    with pytest.raises(EdgevitError, match="is an artefact already"):
        predict(tiny_onnx, device=written, to="tflite")


def test_an_unknown_key_in_the_measurements_is_refused(written, tmp_path):
    document = yaml.safe_load(written.read_text())
    document["measured"]["runtimes"][0]["operators"][3]["mcas"] = 3
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(EdgevitError, match=r"wrong.yaml, line \d+: .*operators\[3\].mcas: unknown key.*macs"):
        load_profile(path)


def test_measurements_of_another_version_are_refused(written, tmp_path):
    path = tmp_path / "newer.yaml"
    path.write_text(written.read_text().replace("measured:\n  version: 2", "measured:\n  version: 3"))
    with pytest.raises(EdgevitError, match=r"newer.yaml, line \d+: measured.version: 3 is not"):
        load_profile(path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--suite",), "-o FILE.yaml"),
        (("--suite", "-o", "x.txt"), "ends in .yaml"),
        (("--suite", "model.onnx", "-o", "x.yaml"), "ARTEFACT: --suite measures the machine"),
        (("--suite", "-o", "x.yaml", "--html", "x.html"), "--html: --suite measures the machine"),
        (("--suite", "-o", "x.yaml", "--models", "deit_tny"), "deit_tiny"),
        (("--suite", "-o", "x.yaml", "--formats", "coreml"), "'coreml' is not measured"),
        (("--suite", "-o", "x.yaml", "--device", "adb://1"), "one that ssh reaches"),
        (("--suite", "-o", "x.yaml", "--link", "local"), "--link local: give ssh://"),
        (("--suite", "-o", "x.yaml", "--threads", "0"), "--threads 0"),
        (("model.onnx", "-o", "x.yaml"), "only --suite writes a device profile"),
        ((), "name the ARTEFACT"),
    ],
)
def test_what_does_not_belong_together_is_refused(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert words in refused(capsys, 2, *arguments)
    assert [*tmp_path.iterdir()] == []


def test_what_exists_is_not_replaced(written, capsys):
    before = written.read_bytes()
    assert "--force" in refused(capsys, 2, "--suite", *FEW, "-o", written)
    assert written.read_bytes() == before


def test_an_interrupted_suite_leaves_a_profile_that_says_so(tmp_path):
    path = tmp_path / "partial.yaml"
    process = subprocess.Popen(
        [*EDGEVIT, "profile", "--suite", "--formats", "onnx", "--threads", "1", "-o", str(path)],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    # Until the third artefact is unpacked: two have been measured.
    seen, deadline = set(), time.monotonic() + 120
    while len(seen) < 3 and time.monotonic() < deadline and process.poll() is None:
        seen |= {found.name for found in tmp_path.glob("*/*.onnx")}
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=60)
    assert process.returncode == 130, complaints
    assert "partial" in complaints
    measured = load_profile(path).measured
    assert measured.partial
    assert measured.runtimes[0].operators
    assert [found.name for found in tmp_path.iterdir()] == ["partial.yaml"]


@pytest.mark.parametrize("name", ["mobilevit_xxs", "levit_128s"])
def test_litert_is_measured_by_operators_that_add_up(name, tmp_path):
    """Of the second some run outside the delegate, between its parts."""
    pytest.importorskip("ai_edge_litert")
    path = Reference(name, "int8", ".tflite").unpack(tmp_path)
    found = time_operators(path, path, Place("local", 1, Remote()))
    assert found.runtime.startswith("ai-edge-litert ")
    assert [*found.operations] == operations_of(path)
    known = {operation for operation, _ in found.times}
    assert known <= set(found.operations)
    assert {operation for operation in found.operations if operation.macs} <= known
    assert 0.95 < sum(us for _, us in found.times) / found.whole_us < 1.0001
    assert all(us > 0 for _, us in found.times)


def test_every_reference_is_sound(tmp_path):
    """Those of ONNX: each opens, and its layers are of integers where it says so."""
    for reference in references([".onnx"], ["edgenext_xxs", "levit_128s"]):
        operations = operations_of(reference.unpack(tmp_path))
        integers = any("int8" in operation.kind for operation in operations if operation.macs)
        assert integers == (reference.precision == "int8"), reference
