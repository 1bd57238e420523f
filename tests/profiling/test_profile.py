"""Profiles: measured in a fresh process, with every sample and the figures drawn from them."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit import profile
from edgevit.cli import run
from edgevit.cli.profile import cpus_of
from edgevit.errors import EdgevitError
from edgevit.profiling import LatencyProfile, UnfinishedProfileError
from edgevit.profiling.latency import histogram
from edgevit.profiling.packed import NAME
from edgevit.profiling.readings import Readings

EDGEVIT = [sys.executable, "-c", "from edgevit.cli import main; main()"]


@pytest.fixture(scope="module")
def measured(tiny_onnx) -> LatencyProfile:
    return profile(tiny_onnx, threads=1, cpus=[min(os.sched_getaffinity(0))], runs=20, seconds=0.1)


def made(samples: list[float]) -> LatencyProfile:
    return LatencyProfile(
        artefact="a.onnx",
        device="local",
        runtime="onnxruntime 1",
        delegate="CPUExecutionProvider",
        threads=1,
        input_shape=(1, 3, 8, 8),
        load_ms=1.0,
        first_ms=1.0,
        warm_up_ms=(1.0,),
        samples_ms=tuple(samples),
        peak_memory_mb=1.0,
        working_set_mb=1.0,
        machine="m",
        system="s",
        python="3",
        cores=1,
    )


def test_it_has_what_the_summary_promises(measured):
    summary = measured.summary()
    assert summary["runs"] == len(summary["samples_ms"]) >= 20
    assert summary["threads"] == 1
    assert summary["runtime"].startswith("onnxruntime ")
    assert summary["input_shape"] == [1, 3, 16, 16]
    assert len(summary["warm_up_ms"]) >= 3
    for name in ("p50_ms", "p90_ms", "p99_ms", "mean_ms", "first_ms", "load_ms", "peak_memory_mb"):
        assert summary[name] > 0
    assert (
        summary["min_ms"] <= summary["p50_ms"] <= summary["p90_ms"] <= summary["p99_ms"] <= summary["max_ms"]
    )
    assert json.loads(json.dumps(summary)) == summary


def test_the_memory_is_the_runtimes_and_not_this_processs(measured):
    """torch alone takes more than 150 MB; the probe holds ONNX Runtime and a tiny model."""
    assert 10 < measured.peak_memory_mb < 150
    assert 0 < measured.working_set_mb < measured.peak_memory_mb


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=50))
def test_percentiles_are_numpys(samples):
    found = made(samples).summary()
    assert found["p90_ms"] == pytest.approx(np.percentile(samples, 90))
    assert found["mean_ms"] == pytest.approx(np.mean(samples))
    assert found["std_ms"] == pytest.approx(np.std(samples))


def test_a_wide_spread_is_warned_about():
    assert made([1.0] * 20).warning is None
    assert "spread over 67 % of the median" in made([1.0] * 10 + [2.0] * 10).warning


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=200), st.integers(1, 50))
def test_a_histogram_counts_every_sample_once(samples, bins):
    found = histogram(samples, bins)
    assert len(found) == bins
    assert sum(count for _, _, count in found) == len(samples)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"device": "toaster"}, "--device: 'toaster' is no place to run; give local, ssh://"),
        ({"device": "pixel-8"}, "is no place to run; give local, ssh://"),
        ({"device": "ssh://pi@10.0.0.7:port"}, "is no place to run"),
        ({"device": "ssh://-oProxyCommand=id"}, "is no place to run"),
        ({"device": "ssh://pi@host/folder"}, "is no place to run"),
        ({"device": "adb://"}, "is no place to run"),
        ({"runtime": "litert"}, "--runtime: litert does not run model.onnx; known: onnxruntime, opencv"),
        ({"delegate": "cudo"}, "has no cudo; it has .*CPUExecutionProvider"),
        ({"cpus": [4095]}, "--cpus: the device lets this process run on"),
        ({"sustained": -1}, "seconds and minutes at 0"),
        ({"threads": 0}, "threads and runs start at 1"),
        ({"runs": 0}, "threads and runs start at 1"),
        ({"seconds": -1}, "seconds and minutes at 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(tiny_onnx, options, sentence):
    with pytest.raises(EdgevitError, match=sentence):
        profile(tiny_onnx, **options)


def test_a_file_that_cannot_run_is_one_sentence(tmp_path):
    onnx = pytest.importorskip("onnx")
    ends = [onnx.helper.make_tensor_value_info(name, 1, [1, 4]) for name in ("image", "logits")]
    node = onnx.helper.make_node("NoSuchOperator", ["image"], ["logits"])
    onnx.save(
        onnx.helper.make_model(onnx.helper.make_graph([node], "g", *([end] for end in ends))),
        tmp_path / "a.onnx",
    )
    with pytest.raises(EdgevitError, match=r"a\.onnx could not be profiled: .*NoSuchOperator"):
        profile(tmp_path / "a.onnx")


def test_it_says_where_it_ran(measured):
    summary = measured.summary()
    assert summary["requested"] == summary["delegate"] == "CPUExecutionProvider"
    assert summary["affinity"] == [min(os.sched_getaffinity(0))]
    assert summary["placed"]["fell_back"] == []
    assert sum(summary["placed"]["units"]["CPUExecutionProvider"].values()) == len(
        summary["operators"]["each"]
    )
    assert summary["partial"] is None
    assert (summary["energy"] is None) == bool(summary["energy_reason"])


def test_operators_are_timed_by_kind_and_by_block(measured):
    table = measured.operators
    assert {"Conv", "Softmax"} <= {item.kind for item in table.operators}
    assert {"conv", "qkv", "head"} <= {item.block for item in table.operators}
    for totals in (table.by_kind(), table.by_block()):
        assert sum(count for _, count, _ in totals) == len(table.operators)
        assert sum(ms for *_, ms in totals) == pytest.approx(table.total_ms)


def test_the_sum_of_operators_is_compared_with_runs_of_the_same_minute(measured):
    table = measured.operators
    assert table.whole_ms > 0
    assert measured.operators_share == table.total_ms / table.whole_ms
    assert measured.summary()["operators"]["whole_ms"] == table.whole_ms


def test_a_provider_that_takes_nothing_is_not_what_ran_it(tiny_onnx):
    onnxruntime = pytest.importorskip("onnxruntime")
    if "AzureExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this build of ONNX Runtime has no provider beside the CPU's")
    found = profile(tiny_onnx, delegate="azure", threads=1, runs=3, seconds=0)
    assert (found.requested, found.delegate) == ("AzureExecutionProvider", "CPUExecutionProvider")
    assert {item.unit for item in found.placed.fell_back} == {"CPUExecutionProvider"}
    assert sum(item.count for item in found.placed.fell_back) == found.placed.total


def test_opencv_runs_the_same_file(tiny_onnx):
    found = profile(tiny_onnx, runtime="opencv", threads=1, runs=3, seconds=0)
    assert found.runtime.startswith("OpenCV dnn ")
    assert found.input_shape == (1, 3, 16, 16)
    assert "Softmax" in {item.kind for item in found.operators.operators}


def test_sustained_load_is_told_second_by_second(tiny_onnx):
    found = profile(tiny_onnx, threads=1, runs=3, seconds=0, sustained=0.04, operators=False)
    assert len(found.sustained.seconds) == 3
    assert found.sustained.window == pytest.approx(found.sustained.duration / 2)
    assert found.sustained.retention > 0
    assert found.operators is None


def test_a_measurement_that_is_killed_leaves_what_it_had(tiny_onnx, monkeypatch):
    """As a device that runs out of memory ends it, after the first line of samples."""
    take = Readings.take

    def take_and_kill(readings: Readings, line: str) -> None:
        take(readings, line)
        if readings.runs:
            ((child, _),) = probes_of(os.getpid())
            os.kill(child, signal.SIGKILL)

    monkeypatch.setattr(Readings, "take", take_and_kill)
    with pytest.raises(UnfinishedProfileError, match=r"signal 9, Killed; the report is partial") as raised:
        profile(tiny_onnx, threads=1, runs=10**6, seconds=60)
    found = raised.value.profile
    assert found.partial == "it was ended by signal 9, Killed"
    assert found.summary()["partial"] == found.partial
    assert found.runs > 0
    assert found.peak_memory_mb > 0


def probes_of(parent: int) -> list[tuple[int, int]]:
    """Probes that a process started: (process, seconds of processor time)."""
    listed = subprocess.run(
        ["ps", *("-o", "pid=", "-o", "times=", "-o", "args="), "ww", "--ppid", str(parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.split(None, 2) for line in listed.stdout.splitlines()]
    return [(int(number), int(seconds)) for number, seconds, words in lines if NAME in words]


def test_ctrl_c_leaves_a_report_that_says_it_is_partial(tiny_onnx, tmp_path):
    process = subprocess.Popen(
        [
            *(*EDGEVIT, "profile", str(tiny_onnx), "--threads", "1", "--json"),
            *("--seconds", "0", "--sustained", "10", "--csv", str(tmp_path / "samples.csv")),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        start_new_session=True,
    )
    try:
        wait_for_samples(process)
    finally:
        os.killpg(process.pid, signal.SIGINT)
        printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted; the report is partial, with" in errors
    summary = json.loads(printed)
    assert summary["partial"] == "interrupted"
    rows = (tmp_path / "samples.csv").read_text().splitlines()
    assert sum(row.startswith("timed,") for row in rows) == summary["runs"] == 50
    assert sum(row.startswith("sustained") for row in rows) == len(summary["sustained"]["seconds"]) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["samples.csv"]


def wait_for_samples(process: subprocess.Popen[str]) -> None:
    """Until the probe has been at it for some seconds of its own."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if any(seconds >= 3 for _, seconds in probes_of(process.pid)):
            return
        time.sleep(0.2)
    pytest.fail("nothing is being measured")


def test_every_sample_is_in_the_csv(tiny_onnx, tmp_path, capsys):
    file = tmp_path / "samples.csv"
    arguments = [
        "profile",
        str(tiny_onnx),
        "--threads",
        "1",
        "--runs",
        "5",
        "--seconds",
        "0",
        "--csv",
        str(file),
    ]
    assert run([*arguments, "--no-operators", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    rows = [line.split(",") for line in file.read_text().splitlines()]
    assert rows[0] == ["phase", "number", "ms"]
    assert [float(ms) for phase, _, ms in rows[1:] if phase == "timed"] == summary["samples_ms"]
    assert [float(ms) for phase, _, ms in rows[1:] if phase == "first"] == [summary["first_ms"]]
    assert run(arguments) == 2
    assert "exists already" in capsys.readouterr().err


def test_cores_are_named_as_taskset_names_them():
    assert cpus_of("4-7") == [4, 5, 6, 7]
    assert cpus_of("0,2, 2") == [0, 2]


@pytest.mark.parametrize("text", ["", "x", "7-4", "-1", "1-2-3"])
def test_what_names_no_cores_is_refused(text, capsys, tiny_onnx):
    assert run(["profile", str(tiny_onnx), "--cpus", text]) == 2
    assert "is no list of cores; write 4-7 or 0,2" in capsys.readouterr().err


def test_figures_of_a_tool_without_samples_stand_for_themselves():
    from edgevit.profiling.latency import Statistics

    reported = Statistics(runs=50, mean_ms=2.0, std_ms=0.1, min_ms=1.9, max_ms=2.5)
    found = dataclasses.replace(made([1.0]), samples_ms=(), reported=reported)
    assert found.typical_ms == 2.0
    assert found.warning is None
    assert found.summary()["p50_ms"] is None
    assert found.summary()["spread"] is None
