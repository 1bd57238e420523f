"""Profiles: measured in a fresh process, with every sample and the figures drawn from them."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit import profile
from edgevit.errors import EdgevitError
from edgevit.profiling import LatencyProfile, probe
from edgevit.profiling.latency import histogram


@pytest.fixture(scope="module")
def measured(tiny_onnx) -> LatencyProfile:
    return profile(tiny_onnx, threads=1, runs=20, seconds=0.1)


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
        ({"device": "toaster"}, "--device: 'toaster' cannot be profiled; known: local"),
        ({"threads": 0}, "threads and runs start at 1"),
        ({"runs": 0}, "threads and runs start at 1"),
        ({"seconds": -1}, "seconds at 0"),
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


def test_the_probe_needs_only_the_standard_library_numpy_and_a_runtime():
    """So that the one file can be copied to a device and run there."""
    tree = ast.parse(Path(probe.__file__).read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported - set(sys.stdlib_module_names) == {
        *("numpy", "onnxruntime", "ai_edge_litert", "tflite_runtime")
    }


def test_the_probe_prints_one_line_of_json(tiny_onnx, tmp_path):
    options = {
        "artefact": str(tiny_onnx),
        "threads": 1,
        "warm_up_runs": 1,
        "warm_up_seconds": 0,
        "runs": 5,
        "seconds": 0,
        "most_runs": 5,
    }
    (tmp_path / "options.json").write_text(json.dumps(options))
    result = subprocess.run(
        [sys.executable, "-I", probe.__file__, str(tmp_path / "options.json")],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    facts = json.loads(result.stdout)
    assert len(facts["samples_ms"]) == 5
    assert len(facts["warm_up_ms"]) == 1
