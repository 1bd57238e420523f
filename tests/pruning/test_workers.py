"""Jobs in this process, in others, and on a cluster of two nodes that the test starts."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgevit import extras
from edgevit.errors import EdgevitError
from edgevit.pruning.classwise import split_classes
from edgevit.pruning.split import MANIFEST
from edgevit.pruning.workers import Workers
from tests.pruning.jobs import die, nothing, refuse, say, stumble
from tests.pruning.patterns import learned, patterns

ROOT = Path(__file__).resolve().parents[2]
IMAGES, CLASSES = (values.numpy() for values in patterns(96, seed=2))


def answers(workers: Workers, *jobs) -> dict[str, bytes]:
    numbered = {str(place): job for place, job in enumerate(jobs)}
    return {done.name: done.data for done in workers.run(numbered, nothing)}


@pytest.mark.parametrize("count", [1, 2])
def test_every_job_gives_its_answer(count):
    said = [functools.partial(say, text) for text in (b"a", b"b", b"")]
    assert answers(Workers(count=count), *said) == {"0": b"a", "1": b"b", "2": b""}


def test_no_jobs_give_no_answers():
    assert answers(Workers(count=2)) == {}


@pytest.mark.parametrize("count", [1, 2])
def test_what_is_refused_in_a_process_is_refused_here(count):
    with pytest.raises(EdgevitError, match="^no such thing$"):
        answers(Workers(count=count), refuse, functools.partial(say, b"a"))


def test_a_bug_in_a_process_stays_a_bug():
    with pytest.raises(RuntimeError, match="KeyError: 'a bug'"):
        answers(Workers(count=2), stumble, functools.partial(say, b"a"))


def test_a_process_that_is_killed_is_named_as_that():
    with pytest.raises(EdgevitError, match=r"--workers: a process ended before its part was done"):
        answers(Workers(count=2), die, functools.partial(say, b"a"))


WAITING = """
import functools, pathlib, sys
from edgevit.pruning.workers import Workers
from tests.pruning.jobs import nothing, wait
job = functools.partial(wait, pathlib.Path(sys.argv[1]))
list(Workers(count=2).run({"first": job, "second": job}, nothing))
"""


def test_processes_end_with_the_one_that_waits_for_them(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    process = subprocess.Popen([sys.executable, "-c", WAITING, str(tmp_path)], env=environment, cwd=ROOT)
    until(lambda: len(list(tmp_path.iterdir())) == 2)
    process.kill()
    process.wait()
    numbers = [int(path.name) for path in tmp_path.iterdir()]
    until(lambda: not any(alive(number) for number in numbers))


def until(holds) -> None:
    deadline = time.monotonic() + 100
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(number: int) -> bool:
    """Whether a process runs; one that nobody has asked after does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{number}/status").read_text()
    except FileNotFoundError:
        return False


def test_workers_are_for_this_machine_alone(monkeypatch):
    monkeypatch.setitem(extras.EXTRAS, "cluster", ())
    with pytest.raises(EdgevitError, match="--workers with --parallel ray: .* leave it out"):
        Workers(parallel="ray", count=2)


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one CPU each."""
    pytest.importorskip("ray", reason="ray is not installed: pip install edgevit[cluster]")
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        )
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        started.add_node(num_cpus=1)
        started.connect()
        yield started
        ray.shutdown()
        started.shutdown()


def test_parts_are_made_on_both_nodes_and_are_those_of_one_process(cluster, tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr("edgevit.progress.report", said.append)
    given = {"parts": 2, "grouping": "random", "epochs": 1}
    split_classes(learned(), IMAGES, CLASSES, output=tmp_path / "ray", parallel="ray", **given)
    split_classes(learned(), IMAGES, CLASSES, output=tmp_path / "local", workers=1, **given)
    nodes = {line.partition(" by node ")[2] for line in said if " by node " in line}
    assert len(nodes) == 2
    for path in (tmp_path / "local").iterdir():
        assert (tmp_path / "ray" / path.name).read_bytes() == path.read_bytes(), path.name
    assert (tmp_path / "ray" / MANIFEST).exists()


def test_what_is_refused_on_a_node_is_refused_here(cluster):
    with pytest.raises(EdgevitError, match="^no such thing$"):
        answers(Workers(parallel="ray"), refuse, functools.partial(say, b"a"))
