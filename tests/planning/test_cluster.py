"""Cluster files: what is read from them and from profiles, and every mistake by file and line."""

from __future__ import annotations

import math

import pytest

from edgevit.errors import EdgevitError
from edgevit.planning.cluster import read_cluster
from edgevit.planning.problem import Chain, Cut, Segment, Wire
from edgevit.planning.timings import Timings, problem_of, read_timings

CLUSTER = """\
version: 1
networks:
  - {name: lan, bytes_per_second: 1.25e+8, latency_seconds: 0.0002}
  - {name: air, bytes_per_second: 6.0e+6, shared: true}
devices:
  - {name: camera, profile: raspberry-pi-4, macs_per_second: 2.0e+9, network: air}
  - {name: board, count: 2, macs_per_second: 8.0e+9, memory_bytes: 1.0e+9, watts: 5, network: lan,
     bytes_per_second: 1.0e+7, latency_seconds: 0.001, format: tflite, precision: fp16}
roles:
  input: camera
  answer: board-2
  pinned:
    - {device: camera, first: 0, last: 1}
"""
CHAIN = Chain(
    tuple(Segment(f"s{i}", 1e6, 1e5, 8 * 10**9) for i in range(3)),
    tuple(Cut(f"c{i}", (Wire("fp32", 1000.0),)) for i in range(4)),
)


@pytest.fixture
def written(tmp_path):
    def write(text=CLUSTER):
        path = tmp_path / "cluster.yaml"
        path.write_text(text)
        return path

    return write


def test_devices_are_put_together_from_entry_network_and_profile(written):
    cluster = read_cluster(written())
    camera, first, second = cluster.machines
    assert [m.name for m in cluster.machines] == ["camera", "board-1", "board-2"]
    assert (camera.memory_bytes, camera.bandwidth, camera.medium, camera.format) == (
        2**30,
        6e6,
        "air",
        "onnx",
    )
    assert (first.bandwidth, first.latency, first.medium, first.format) == (1e7, 0.001, None, "tflite")
    assert second.entry is first.entry
    assert [medium.name for medium in cluster.media] == ["air"]
    assert (cluster.source, cluster.sink, cluster.pins[0].last) == ("camera", "board-2", 1)
    assert cluster.notes == (
        "memory of camera is all that Raspberry Pi 4 Model B has; its system takes a part of it",
    )


def test_a_profile_gives_a_line_where_no_network_does(written):
    text = "version: 1\ndevices:\n  - {name: pi, profile: raspberry-pi-4, macs_per_second: 1}\n"
    (machine,) = read_cluster(written(text)).machines
    assert machine.bandwidth == 1000e6 / 8
    assert "nominal rate of its profile, an estimate" in machine.notes[1]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("raspberry-pi-4", "raspbery-pi-4", "line 6: devices[0].profile: unknown device"),
        ("1.25e+8", "0", "line 3: networks[0].bytes_per_second: must be above 0, not 0"),
        (
            "bytes_per_second: 1.0e+7",
            "bytes_per_second: 0",
            "line 8: devices[1].bytes_per_second: must be above 0",
        ),
        ("1.0e+9", "-1", "line 7: devices[1].memory_bytes: must be at least 0, not -1"),
        ("name: board, count: 2", "name: camera", 'line 7: devices[1].name: "camera" is there already'),
        ("name: camera", "name: board-2", 'line 7: devices[1].name: "board-2" is there already'),
        ("name: air", "name: lan", 'line 4: networks[1].name: "lan" is there already'),
        ("count: 2", "count: 0", "line 7: devices[1].count: must be at least 1, not 0"),
        (
            "network: lan",
            "network: lam",
            'line 7: devices[1].network: no network is called "lam"; did you mean "lan"',
        ),
        (
            "memory_bytes: 1.0e+9, ",
            "",
            "line 7: devices[1].memory_bytes: missing; add what the model may take",
        ),
        ("input: camera", "input: camra", 'line 10: roles.input: no device is called "camra"; did you mean'),
        (
            "answer: board-2",
            "answer: board",
            'line 11: roles.answer: no device is called "board"; did you mean',
        ),
        (
            "device: camera, first",
            "device: cam, first",
            'line 13: roles.pinned[0].device: no device is called "cam"',
        ),
        (
            "first: 0, last: 1",
            "first: 2, last: 1",
            "line 13: roles.pinned[0].last: must be at least 2, the first",
        ),
        ("watts: 5", "watts: 5, joules_per_mac: 1", "joules_per_mac: watts are given already"),
        (
            "network: air",
            "network: air, format: coreml",
            "format: Raspberry Pi 4 Model B does not run coreml; it runs onnx, tflite",
        ),
        (
            "network: air",
            "network: air, precision: fp16",
            "precision: Raspberry Pi 4 Model B does not compute onnx in fp16, but in fp32, int8",
        ),
        ("watts: 5", "wats: 5", 'line 7: devices[1].wats: unknown key; did you mean "watts"'),
    ],
)
def test_mistakes_are_named_with_file_and_line(written, old, new, problem):
    assert old in CLUSTER
    path = written(CLUSTER.replace(old, new, 1))
    with pytest.raises(EdgevitError) as refusal:
        read_cluster(path)
    assert str(refusal.value).startswith(f"{path}, line ")
    assert problem in str(refusal.value)


def test_a_cluster_without_devices_or_lines_is_refused(written):
    with pytest.raises(EdgevitError, match=r"line 2: devices: must have at least one entry"):
        read_cluster(written("version: 1\ndevices: []\n"))
    with pytest.raises(
        EdgevitError, match=r"devices\[0\].bytes_per_second: missing; add the speed of its line"
    ):
        read_cluster(written("version: 1\ndevices:\n  - {name: a, memory_bytes: 1}\n"))


# --- problems ---------------------------------------------------------------------------------------------


def test_times_are_estimates_that_say_so(written):
    problem, notes = problem_of(read_cluster(written()), CHAIN)
    assert problem.hosts[1].seconds == (1.0, 1.0, 1.0)
    assert problem.hosts[1].joules == (5.0, 5.0, 5.0)
    assert problem.hosts[0].joules is None
    assert "times of board are its multiply-accumulates over macs_per_second, an estimate" in notes


def test_measured_times_are_taken_where_there_are_any(written):
    timings = Timings(
        {"camera": (9.0, 8.0, 7.0), "board": (1.0, 2.0, 3.0), "board-2": (4.0, 5.0, 6.0)}, "t.yaml"
    )
    problem, notes = problem_of(read_cluster(written()), CHAIN, timings, max_memory=5e6)
    assert [host.seconds[0] for host in problem.hosts] == [9.0, 1.0, 4.0]
    assert [host.memory_bytes for host in problem.hosts] == [5e6] * 3
    assert not any("macs_per_second" in note for note in notes)


@pytest.mark.parametrize(
    ("old", "new", "chain", "problem"),
    [
        (
            "macs_per_second: 2.0e+9, ",
            "",
            CHAIN,
            "line 6: devices[0]: nothing says how fast camera is; give macs_per_second",
        ),
        (
            "last: 1",
            "last: 3",
            CHAIN,
            "line 13: roles.pinned[0].last: there is no segment 3; the last one is 2",
        ),
        (
            "network: air}",
            "network: air, memory_bytes: 2000000}",
            CHAIN,
            "line 13: roles.pinned[0]: segments 0 to 1 need 2,100,000 bytes, and camera has 2,000,000",
        ),
        (
            "",
            "",
            Chain((Segment("a", 1.0),) * 3, CHAIN.cuts),
            "the model does not say its arithmetic; give times of camera",
        ),
    ],
)
def test_what_the_model_does_not_allow_is_named_with_its_line(written, old, new, chain, problem):
    with pytest.raises(EdgevitError) as refusal:
        problem_of(read_cluster(written(CLUSTER.replace(old, new, 1))), chain)
    assert problem in str(refusal.value)
    assert str(refusal.value).count("cluster.yaml, line ") == 1


def test_times_of_nobody_are_refused(written):
    with pytest.raises(EdgevitError, match=r"t.yaml: bord is no device of the cluster; did you mean"):
        problem_of(read_cluster(written()), CHAIN, Timings({"bord": (1.0,) * 3}, "t.yaml"))


def test_times_are_read_from_yaml_and_csv(tmp_path):
    table, text = tmp_path / "t.csv", tmp_path / "t.yaml"
    table.write_text("camera,board\n0.5,0.25\n1,2\n")
    text.write_text("version: 1\nseconds: {camera: [0.5, 1], board: [0.25, 2]}\n")
    assert (
        read_timings(table, 2).seconds
        == read_timings(text, 2).seconds
        == {"camera": (0.5, 1.0), "board": (0.25, 2.0)}
    )


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("t.csv", "a,b\n1,2\n", "t.csv has 1 lines of times; the model has 2 segments"),
        ("t.csv", "a,b\n1,2\n3\n", "t.csv, line 3: has 1 values for 2 devices"),
        ("t.csv", "a,b\n1,2\n3,-1\n", "t.csv, line 3: '-1' is no time; write seconds of at least 0"),
        ("t.csv", "a,b\n1,2\n3,soon\n", "t.csv, line 3: 'soon' is no time"),
        ("t.csv", "a,a\n1,2\n3,4\n", "t.csv, line 1: a device is named twice"),
        ("t.csv", "", "t.csv is empty"),
        (
            "t.yaml",
            "version: 1\nseconds: {a: [1]}\n",
            "t.yaml, line 2: seconds.a: has 1 values; the model has 2",
        ),
        (
            "t.yaml",
            "version: 1\nseconds: {a: [1, -2]}\n",
            "t.yaml, line 2: seconds.a[1]: must be at least 0, not -2",
        ),
    ],
)
def test_mistakes_in_times_are_named(tmp_path, name, text, problem):
    (tmp_path / name).write_text(text)
    with pytest.raises(EdgevitError) as refusal:
        read_timings(tmp_path / name, 2)
    assert problem in str(refusal.value)


def test_unlimited_memory_is_not_written():
    from edgevit.planning.cluster import unlimited

    assert (unlimited(math.inf), unlimited(3.0)) == (None, 3.0)
