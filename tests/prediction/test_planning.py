"""Plans on devices whose profile has measured operators: stages take what is predicted of the whole."""

from __future__ import annotations

import pytest
import yaml

from edgevit import plan, predict
from edgevit.errors import EdgevitError
from edgevit.planning.cluster import read_cluster
from edgevit.planning.predicted import predicted_times
from tests.prediction.helpers import profile_file

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


def cluster_file(path, *devices):
    network = {"name": "lan", "bytes_per_second": 1e8}
    entries = [{"network": "lan", **device} for device in devices]
    path.write_text(yaml.safe_dump({"version": 1, "networks": [network], "devices": entries}))
    return path


@pytest.fixture
def program_file(tiny_program, tmp_path):
    path = tmp_path / "tiny.pt2"
    tiny_program.save(path)
    return path


def test_the_segments_of_a_device_add_up_to_what_is_predicted(tiny_program, program_file, tmp_path):
    from edgevit import find_cuts

    board = profile_file(tmp_path / "board.yaml")
    cluster = read_cluster(cluster_file(tmp_path / "c.yaml", {"name": "b", "profile": str(board)}))
    found = predicted_times(cluster, tiny_program, find_cuts(tiny_program).segments)["b"]
    whole = predict(program_file, device=board)
    assert sum(found.seconds) == pytest.approx(whole.ms / 1e3)
    assert all(seconds >= 0 for seconds in found.seconds)
    assert "predicted from operators measured on board" in found.note


def test_a_device_that_is_twice_as_slow_is_planned_as_that(program_file, tmp_path):
    quick = profile_file(tmp_path / "quick.yaml")
    slow = profile_file(tmp_path / "slow.yaml", slower=2.0)
    cluster = cluster_file(
        tmp_path / "c.yaml", {"name": "q", "profile": str(quick)}, {"name": "s", "profile": str(slow)}
    )
    made = plan(program_file, devices=cluster)
    assert any("times of q are predicted" in note for note in made.notes)
    assert any("times of s are predicted" in note for note in made.notes)
    ratio = predict(program_file, device=slow).ms / predict(program_file, device=quick).ms
    assert ratio == pytest.approx(2.0, rel=0.01)


def test_what_the_cluster_file_says_itself_comes_first(tiny_program, tmp_path):
    board = profile_file(tmp_path / "board.yaml")
    entry = {"name": "b", "profile": str(board), "macs_per_second": 1e9}
    cluster = read_cluster(cluster_file(tmp_path / "c.yaml", entry))
    assert predicted_times(cluster, tiny_program, ()) == {}


def test_a_profile_without_measurements_still_needs_a_speed(program_file, tmp_path):
    cluster = cluster_file(tmp_path / "c.yaml", {"name": "pi", "profile": "raspberry-pi-5"})
    with pytest.raises(
        EdgevitError, match=r"c.yaml, line \d+.*nothing says how fast pi is.*measured operators"
    ):
        plan(program_file, devices=cluster)


def test_the_interval_is_as_wide_as_models_that_were_left_out_say(tiny_onnx, tmp_path):
    def models(*ratios):
        return [
            {
                "name": f"m{i}",
                "family": f"f{i}",
                "precision": "fp32",
                "us": 100.0 * ratio,
                "predicted_us": 100.0,
            }
            for i, ratio in enumerate(ratios)
        ]

    plain = predict(tiny_onnx, device=profile_file(tmp_path / "plain.yaml"))
    off = predict(tiny_onnx, device=profile_file(tmp_path / "off.yaml", models=models(1.1, 1.1, 1.1)))
    wide = predict(tiny_onnx, device=profile_file(tmp_path / "wide.yaml", models=models(0.8, 1.0, 1.25)))
    assert plain.low_ms is None
    # All were 10 % slower than predicted: so is this one, with nothing to doubt.
    assert off.ms == pytest.approx(1.1 * plain.ms)
    assert off.low_ms == pytest.approx(off.ms)
    assert wide.ms == pytest.approx(plain.ms)
    assert wide.low_ms < wide.ms / 1.25
    assert wide.high_ms > 1.25 * wide.ms
    assert wide.low_ms * wide.high_ms == pytest.approx(wide.ms**2)
