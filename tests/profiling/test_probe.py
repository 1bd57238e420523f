"""The probe: one file for any device, which says each finding as a line, from files that systems keep."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.profiling import probe, receiver
from edgevit.profiling.packed import NAME, packed_probe
from edgevit.profiling.probe.conditions import Counter, Energy, battery_watts, conditions
from edgevit.profiling.probe.operators import Turns, inside, node_times
from edgevit.profiling.probe.views import chain_of_views

SOURCES = [*sorted(Path(probe.__file__).parent.glob("*.py")), Path(receiver.__file__)]

OPTIONS = {
    "artefact": "model.onnx",
    "runtime": "onnxruntime",
    "delegate": None,
    "input_shape": None,
    "threads": 1,
    "cpus": None,
    "warm_up_runs": 1,
    "warm_up_seconds": 0,
    "runs": 5,
    "seconds": 0,
    "most_runs": 5,
    "sustained_seconds": 0,
    "operators": True,
}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_it_needs_only_the_standard_library_numpy_and_a_runtime(source):
    """So that it can be sent to a device and run there; Python 3.8 has to be able to read it."""
    tree = ast.parse(source.read_text(), feature_version=(3, 8))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    }
    assert imported - set(sys.stdlib_module_names) <= {
        *("numpy", "onnxruntime", "ai_edge_litert", "tflite_runtime", "cv2")
    }


def test_the_one_file_is_the_same_whenever_it_is_made():
    assert packed_probe() == packed_probe()


def events_of(artefact, tmp_path, **changes):
    (tmp_path / NAME).write_bytes(packed_probe())
    result = subprocess.run(
        [sys.executable, "-I", str(tmp_path / NAME)],
        input=json.dumps({**OPTIONS, "artefact": str(artefact), **changes}) + "\n",
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    return result.returncode, [json.loads(line) for line in result.stdout.splitlines()]


def test_it_says_each_finding_in_a_line_of_its_own(tiny_onnx, tmp_path):
    status, events = events_of(tiny_onnx, tmp_path)
    assert status == 0
    names = [event["event"] for event in events]
    assert names[:4] == ["machine", "loaded", "first", "warm_up"]
    assert names[-2:] == ["operators", "end"]
    assert sum(len(event["ms"]) for event in events if event["event"] == "samples") == 5
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_runtime_that_is_not_there_is_one_sentence(tmp_path):
    (tmp_path / "model.tflite").write_bytes(b"no model")
    status, events = events_of(tmp_path / "model.tflite", tmp_path, runtime="litert", delegate="/no/such.so")
    assert status == 1
    assert events[-1]["event"] == "refused"
    assert "\n" not in events[-1]["reason"]


def written(root: Path, files: dict[str, str]) -> Path:
    """Files as sysfs has them."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def test_temperatures_clocks_and_governors_are_read(tmp_path):
    cpu = "devices/system/cpu"
    found = conditions(
        written(
            tmp_path,
            {
                "class/thermal/thermal_zone0/type": "cpu-thermal",
                "class/thermal/thermal_zone0/temp": "51121",
                "class/thermal/thermal_zone1/type": "cpu-thermal",
                "class/thermal/thermal_zone1/temp": "48000",
                f"{cpu}/cpu0/cpufreq/scaling_cur_freq": "1800000",
                f"{cpu}/cpu0/cpufreq/scaling_governor": "ondemand",
                f"{cpu}/cpu10/cpufreq/scaling_cur_freq": "2400000",
                f"{cpu}/cpu10/cpufreq/scaling_governor": "ondemand",
                f"{cpu}/cpuidle/current_driver": "none",
            },
        )
    )
    assert found["temperatures_c"] == {"cpu-thermal": 51.121, "cpu-thermal (thermal_zone1)": 48.0}
    assert found["mhz"] == [1800.0, 2400.0]
    assert found["governors"] == ["ondemand"]


def test_what_a_system_does_not_tell_is_none(tmp_path):
    assert set(conditions(tmp_path).values()) == {None}
    assert "no energy counter" in Energy(tmp_path).result()["reason"]


@given(st.lists(st.integers(0, 900), min_size=1, max_size=20))
def test_a_counter_adds_up_what_was_spent_beyond_its_end(spent):
    """The law: as long as it is looked at once a round, the sum is right."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        zone = written(Path(folder), {"name": "package-0", "max_energy_range_uj": "1000", "energy_uj": "500"})
        counter, total = Counter(zone), 500
        counter.read()
        for step in spent:
            total += step
            (zone / "energy_uj").write_text(str(total % 1000))
            counter.read()
        assert counter.joules == pytest.approx(sum(spent) / 1e6)


def test_energy_comes_from_rapl_where_there_is_one(tmp_path):
    zone = "class/powercap/intel-rapl:0"
    root = written(tmp_path, {f"{zone}/name": "package-0", f"{zone}/energy_uj": "1000000"})
    energy = Energy(root)
    (root / zone / "energy_uj").write_text("3500000")
    energy.read()
    assert energy.result()["joules"] == 2.5
    assert energy.result()["source"] == "RAPL: package-0"


@pytest.mark.parametrize(
    ("files", "watts"),
    [
        ({"power_now": "4500000"}, 4.5),
        ({"current_now": "-500000", "voltage_now": "4000000"}, 2.0),
        ({"status": "Charging", "power_now": "4500000"}, None),
        ({}, None),
        ({"type": "Mains", "power_now": "4500000"}, None),
    ],
)
def test_a_battery_tells_its_power_while_it_gives_some(tmp_path, files, watts):
    supply = written(tmp_path, {"type": "Battery", "status": "Discharging", **files})
    assert battery_watts(supply) == watts


def node(name, kind, microseconds):
    return {"name": f"{name}_kernel_time", "dur": microseconds, "args": {"op_name": kind, "provider": "CPU"}}


def test_what_the_profiler_adds_to_nodes_is_taken_out_again():
    """It adds 20 us to a run of four nodes; 80 % of that is in their times."""
    once = [node("conv", "Conv", 30), *(node(f"view{index}", "Reshape", 4) for index in range(3))]
    found = node_times(Turns(26.0, 46.0, once * 20), 0.8)
    assert found["cost_us"] == 4
    assert found["operators"][0] == ["conv", "Conv", "CPU", 26]
    assert [row[3] for row in found["operators"]] == [26, 0, 0, 0]


def test_a_chain_tells_how_much_of_it_is_in_the_times_of_nodes():
    """Of 100 us that it adds 40 are: what nodes show less what they take."""
    links = [node(f"view{index}", "Reshape", 5) for index in range(10)]
    assert inside(Turns(10.0, 110.0, links * 20)) == pytest.approx(0.4)
    assert inside(Turns(60.0, 110.0, links * 20)) == 0
    assert inside(Turns(10.0, 9.0, links * 20)) == 0


def test_runs_that_something_else_slowed_do_not_count():
    times = [node("conv", "Conv", 30)] * 34 + [node("conv", "Conv", 9000)]
    assert node_times(Turns(30.0, 30.0, times), 1.0)["operators"][0][3] == 30


@pytest.mark.parametrize("length", [1, 2, 200])
def test_the_chain_of_views_is_a_sound_model(length):
    onnx = pytest.importorskip("onnx")
    model = onnx.load_model_from_string(chain_of_views(length))
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Reshape"] * length
