"""PipeEdge's files: its published case to the last digit, its memory model, and mistakes by file and line."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest

from edgevit.errors import EdgevitError
from edgevit.planning.pipeedge import read_pipeedge
from edgevit.planning.pipelines import best_pipelines

from .conftest import MODELS

CASE = Path(__file__).resolve().parents[3] / "shared" / "cases" / "pipeedge-vit-base"


@pytest.mark.skipif(not CASE.is_dir(), reason="needs ../shared/cases")
def test_the_published_case_has_its_published_optimum():
    best = best_pipelines(read_pipeedge(CASE), "throughput")[0]
    assert best.prediction.bottleneck == pytest.approx(1.5487600088119509, rel=1e-12)
    assert best.certificate.optimal


def test_units_and_memory_are_those_of_its_scheduler(folder):
    problem = read_pipeedge(folder)
    assert [host.name for host in problem.hosts] == ["a", "b", "c"]
    assert problem.hosts[1].bandwidth == 4 * 2**20 / 8
    assert problem.hosts[1].memory_bytes < 4 * 2**20
    assert [cut.wires[0].bytes for cut in problem.chain.cuts] == [3200, 32000, 64000, 320]
    assert [cut.entering_bytes for cut in problem.chain.cuts[:2]] == [3200, 3 * 32000]


def test_it_is_as_good_as_trying_everything(folder):
    problem = read_pipeedge(folder)
    sizes, memory, seconds = (32000, 64000), (1, 2, 3), {"a": 1.0, "b": 2.0, "c": 2.0}
    found = []
    for stages in (1, 2, 3):
        for inner in itertools.combinations((1, 2), stages - 1):
            places = (0, *inner, 3)
            for hosts in itertools.permutations("abc", stages):
                cost = [
                    seconds[host] * (e - s) for host, s, e in zip(hosts, places, places[1:], strict=False)
                ]
                for (u, v), place in zip(itertools.pairwise(hosts), inner, strict=True):
                    speed = min(8 if end == "a" else 4 for end in (u, v)) * 2**20 / 8
                    cost.append(sizes[place - 1] / speed)
                # Buffers are small here: only the weights decide.
                fits = all(
                    sum(memory[s:e]) < (7.5 if host == "a" else 3.5)
                    for host, s, e in zip(hosts, places, places[1:], strict=False)
                )
                found.append(max(cost) if fits else math.inf)
    assert best_pipelines(problem, "throughput")[0].prediction.bottleneck == pytest.approx(min(found))


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        (
            "devices.yml",
            "slow: [b, c]",
            "slwo: [b, c]",
            "line 2: slwo: no such device type in {}; did you mean",
        ),
        ("devices.yml", "slow: [b, c]", "slow: []", "line 2: slow: must have at least one entry"),
        ("devices.yml", "slow: [b, c]", "slow: [b, b]", "device b: 2 are called so"),
        ("device_types.yml", "bw_Mbps: 4", "bw_Mbps: 0", "line 8: slow.bw_Mbps: must be above 0, not 0"),
        ("device_types.yml", "mem_MB: 4", "mem_MB: -4", "line 9: slow.mem_MB: must be at least 0, not -4"),
        ("device_types.yml", "[2.0, 2.0, 2.0]", "[2.0, 2.0]", "time_s has 2 values for 3 layers"),
        (
            "device_types.yml",
            "batch_size: 8, dtype: torch.float32, time_s: [2",
            "batch_size: 4, dtype: torch.float32, time_s: [2",
            "line 11: slow.model_profiles.net: no times of batches of 8 in torch.float32; there are",
        ),
        (
            "device_types.yml",
            "net:\n    - {batch_size: 8, dtype: torch.float32, time_s: [1",
            "nets:\n    - {batch_size: 8, dtype: torch.float32, time_s: [1",
            'line 4: fast.model_profiles: no times of net; did you mean "nets"',
        ),
        (
            "models.yml",
            "mem_MB: [1, 2, 3]",
            "mem_MB: [1, 2]",
            "line 3: net.mem_MB: has 2 values for 3 layers",
        ),
        ("models.yml", "layers: 3", "layers: three", "line 2: net.layers: must be a whole number, not"),
    ],
)
def test_mistakes_are_named_with_file_and_line(folder, file, old, new, problem):
    path = folder / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(EdgevitError) as refusal:
        read_pipeedge(folder)
    assert str(path) in str(refusal.value)
    assert problem.replace("{}", str(folder / "device_types.yml")) in str(refusal.value)


def test_one_of_several_models_is_chosen_by_name(folder):
    (folder / "models.yml").write_text(MODELS + MODELS.replace("net:", "other:"))
    with pytest.raises(EdgevitError, match=r"has 2 models; choose one: net, other"):
        read_pipeedge(folder)
    with pytest.raises(EdgevitError, match=r"has no model 'nett'; did you mean \"net\""):
        read_pipeedge(folder, model="nett")
    assert len(read_pipeedge(folder, model="net").chain.segments) == 3


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(EdgevitError, match=r"is no folder; give one with models.yml"):
        read_pipeedge(tmp_path / "nowhere")
