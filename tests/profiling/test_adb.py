"""Over adb: what benchmark_model prints is read; the way there and back.

No Android device and no adbd can be had on a test machine: `adb` is a stand-in here that copies and runs in a
folder, and benchmark_model one that prints what the real one has printed. What they show is the order of
commands, that the device is left clean, and the sentences; not that a phone answers as the stand-in does.
"""

# ruff: noqa: E501 - lines as benchmark_model prints them

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.cli import run
from edgevit.errors import EdgevitError
from edgevit.profiling.benchmark_model import read_operators, read_timings

EDGEVIT = [sys.executable, "-c", "from edgevit.cli import main; main()"]

# As version 2.14 prints on a phone's CPU, with a delegate that takes everything.
NEWER = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Min num runs: [50]
INFO: Num threads: [4]
INFO: Graph: [/data/local/tmp/a.tflite]
INFO: #threads used for CPU inference: [4]
INFO: Loaded model /data/local/tmp/a.tflite
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
INFO: Replacing 187 out of 189 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 3 partitions \
for the whole graph.
INFO: The input model file size (MB): 3.67827
INFO: Initialized session in 92.318ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=3 first=187533 curr=200386 min=187533 max=235158 avg=211669 std=16613 p5=187533 median=200386 p95=235158

INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=50 first=140990 curr=141990 min=140071 max=195121 avg=145528 std=13583 p5=140545 median=141253 p95=187533

INFO: Inference timings in us: Init: 92318, First inference: 187533, Warmup (avg): 211669, Inference (avg): 145528
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the \
actual memory footprint of the model at runtime. Take the information at your discretion.
INFO: Memory footprint delta from the start of the tool (MB): init=54.2852 overall=73.4102
INFO: Overall peak memory footprint (MB) via periodic monitoring: 96.5
"""

# As 2.8 prints on a board, with operators.
OLDER = """\
STARTING!
Log parameter values verbosely: [0]
Num threads: [4]
Graph: [./mobilenet_v1_1.0_224.tflite]
Enable op profiling: [1]
#threads used for CPU inference: [4]
Loaded model ./mobilenet_v1_1.0_224.tflite
The input model file size (MB): 16.9008
Initialized session in 17.187ms.
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
count=1 curr=3512391

Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
count=50 first=2990275 curr=2913402 min=2727568 max=3189954 avg=2.95034e+06 std=109798

Inference timings in us: Init: 17187, First inference: 3512391, Warmup (avg): 3.51239e+06, Inference (avg): 2.95034e+06
Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual \
memory footprint of the model at runtime. Take the information at your discretion.
Memory footprint delta from the start of the tool (MB): init=4.21094 overall=46.0859
Profiling Info for Benchmark Initialization:
============================== Run Order ==============================
\t             [node type]\t          [start]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t         AllocateTensors\t            0.000\t    1.356\t    1.356\t100.000%\t100.000%\t     0.000\t        1\tAllocateTensors/0

Number of nodes executed: 1
============================== Summary by node type ==============================
\t             [Node type]\t  [count]\t  [avg ms]\t    [avg %]\t    [cdf %]\t  [mem KB]\t[times called]
\t         AllocateTensors\t        1\t     1.356\t   100.000%\t   100.000%\t     0.000\t        1

Timings (microseconds): count=1 curr=1356
Memory (bytes): count=0
1 nodes observed

Operator-wise Profiling Info for Regular Benchmark Runs:
Number of nodes executed: 94
============================== Summary by node type ==============================
\t             [Node type]\t  [count]\t  [avg ms]\t    [avg %]\t    [cdf %]\t  [mem KB]\t[times called]
\t          TRANSPOSE_CONV\t        6\t   130.565\t    79.275%\t    79.275%\t     0.000\t        6
\t                     ADD\t       21\t    13.997\t     8.499%\t    87.773%\t     0.000\t       21
\t                 CONV_2D\t       34\t     8.962\t     5.441%\t    93.215%\t     0.000\t       34

Timings (microseconds): count=50 first=164708 curr=164600 min=163000 max=166000 avg=164700 std=500
"""


def test_percentiles_are_read_where_it_prints_them():
    printed = read_timings(NEWER)
    assert (printed.statistics.runs, printed.statistics.mean_ms) == (50, 145.528)
    assert (printed.statistics.p50_ms, printed.statistics.p95_ms) == (141.253, 187.533)
    assert (printed.statistics.p90_ms, printed.statistics.p99_ms) == (None, None)
    assert (printed.load_ms, printed.first_ms, printed.warm_up_ms) == (92.318, 187.533, 211.669)
    assert printed.peak_memory_mb == pytest.approx(96.5 * 1.048576)
    assert printed.working_set_mb == pytest.approx(73.4102 * 1.048576)
    assert (printed.delegate, printed.taken, printed.threads) == ("TfLiteXNNPackDelegate", (187, 189), 4)


def test_figures_of_an_older_one_are_read_as_well():
    printed = read_timings(OLDER)
    assert (printed.statistics.runs, printed.statistics.mean_ms) == (50, 2950.34)
    assert (printed.statistics.min_ms, printed.statistics.max_ms) == (2727.568, 3189.954)
    assert printed.statistics.p50_ms is printed.peak_memory_mb is printed.delegate is None


def test_a_single_run_is_its_own_mean():
    text = OLDER[: OLDER.index("count=50")] + "count=1 curr=2990275\n"
    found = read_timings(text + OLDER[OLDER.index("Inference timings") :]).statistics
    assert (found.runs, found.mean_ms, found.min_ms, found.std_ms) == (1, 2990.275, 2990.275, 0.0)


def test_operators_are_those_of_the_timed_runs():
    table = read_operators(OLDER)
    assert table.by_kind() == [
        ("TRANSPOSE_CONV", 6, pytest.approx(130.565)),
        ("ADD", 21, pytest.approx(13.997)),
        ("CONV_2D", 34, pytest.approx(8.962)),
    ]
    assert read_operators(NEWER) is None


@given(st.integers(0, len(NEWER)))
def test_output_that_ends_early_is_one_sentence(length):
    text = NEWER[:length]
    if "Warmup (avg): 2" not in text:
        with pytest.raises(EdgevitError, match="^benchmark_model printed no timings: ") as raised:
            read_timings(text)
        assert "\n" not in str(raised.value)


# --- the way there and back ---------------------------------------------------------------------------

ADB = """#!/bin/sh
# -s SERIAL push FILE TO | shell COMMAND
if [ "$2" != phone-1 ]; then echo "adb: device '$2' not found" >&2; exit 1; fi
shift 2
case $1 in
push) cp "$2" "$3" ;;
shell) shift; exec sh -c "$*" ;;
esac
"""


@pytest.fixture
def phone(tmp_path, monkeypatch):
    """What adb reaches: a folder. A tool prints what its file holds and ends with the status beside it."""
    programs, folder = tmp_path / "programs", tmp_path / "phone"
    programs.mkdir()
    folder.mkdir()
    (programs / "adb").write_text(ADB)
    (programs / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return folder


def tool(tmp_path, printed, status=0, body=""):
    """A stand-in for benchmark_model."""
    (tmp_path / "printed").write_text(printed)
    (tmp_path / "benchmark_model").write_text(
        f'#!/bin/sh\n{body}\necho "$*" >> {tmp_path}/asked\ncat {tmp_path}/printed\nexit {status}\n'
    )
    return ["--benchmark-model", str(tmp_path / "benchmark_model")]


def profile_on(phone, artefact, *arguments):
    device = ["--device", "adb://phone-1", "--remote-folder", str(phone)]
    return run(["profile", str(artefact), *device, *map(str, arguments)])


def test_the_report_has_what_the_tool_tells(phone, tiny_tflite, tmp_path, capsys):
    arguments = [*tool(tmp_path, OLDER), "--threads", 4, "--cpus", "0", "--html", tmp_path / "page.html"]
    assert profile_on(phone, tiny_tflite, *arguments, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["mean_ms"] == 2950.34
    assert summary["samples_ms"] == []
    assert summary["operators"]["by_kind"][0][:2] == ["TRANSPOSE_CONV", 6]
    assert (summary["device"], summary["runtime"]) == ("adb://phone-1", "LiteRT benchmark_model")
    assert (summary["requested"], summary["delegate"]) == ("XNNPACK", "built-in kernels")
    timed, profiled = (tmp_path / "asked").read_text().splitlines()
    assert "--num_threads=4" in timed
    assert "--min_secs=3.0" in timed
    assert "--enable_op_profiling=true" not in timed
    assert "--enable_op_profiling=true" in profiled
    assert "prints no single ones" in (tmp_path / "page.html").read_text()
    assert [*phone.iterdir()] == []


@pytest.mark.parametrize(
    ("printed", "status", "sentence"),
    [
        ("ERROR: Could not open '/x.tflite'.\n", 1, "adb://phone-1: ERROR: Could not open '/x.tflite'."),
        ("STARTING!\n", 0, "benchmark_model printed no timings: STARTING!"),
        ("adb: error: closed\n", 1, "adb://phone-1: the connection was lost"),
    ],
)
def test_a_run_that_fails_leaves_the_device_clean(
    phone, tiny_tflite, tmp_path, capsys, printed, status, sentence
):
    assert profile_on(phone, tiny_tflite, *tool(tmp_path, printed, status)) == 2
    assert capsys.readouterr().err == f"error: {sentence}\n"
    assert [*phone.iterdir()] == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "pass --benchmark-model FILE, LiteRT's benchmark_model built for the device"),
        (("--benchmark-model", "/no/tool"), "--benchmark-model: /no/tool does not exist"),
        (("--sustained", "1"), "--sustained: benchmark_model prints no single runs"),
        (("--delegate", "gpuu"), 'benchmark_model has no gpuu; did you mean "gpu"?'),
        (("--device", "adb://phone-2"), "it is not there; `adb devices` lists those that are"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(phone, tiny_tflite, tmp_path, capsys, arguments, sentence):
    given = (
        arguments
        if "--benchmark-model" in arguments or not arguments
        else (*tool(tmp_path, NEWER), *arguments)
    )
    assert profile_on(phone, tiny_tflite, *given) == 2
    printed = capsys.readouterr().err
    assert sentence in printed
    assert printed.count("\n") == 1


def test_an_interrupt_leaves_the_device_clean(phone, tiny_tflite, tmp_path):
    given = [*tool(tmp_path, NEWER, body=f"touch {tmp_path}/running; sleep 5"), "--device", "adb://phone-1"]
    process = subprocess.Popen(
        [*EDGEVIT, "profile", str(tiny_tflite), *given, "--remote-folder", str(phone)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "running").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.endswith("interrupted before anything was timed; there is no report\n")
    assert [*phone.iterdir()] == []


def test_only_tflite_runs_there(phone, tiny_onnx, tmp_path, capsys):
    assert profile_on(phone, tiny_onnx, *tool(tmp_path, NEWER)) == 2
    assert "and model.onnx is no TFLite file" in capsys.readouterr().err


def test_without_adb_there_is_a_hint(tiny_tflite, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert profile_on(tmp_path, tiny_tflite, *tool(tmp_path, NEWER)) == 3
    assert "sudo apt-get install adb" in capsys.readouterr().err
