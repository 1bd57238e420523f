"""`edgevit top`: metrics written and read again, what two looks at them say, and a real service watched."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.cli import run
from edgevit.errors import EdgevitError
from edgevit.runtime.metrics import Sample, read_metrics, write_metrics
from edgevit.runtime.watching import Look, lines_of, metrics_url, view
from tests.runtime.conftest import images
from tests.runtime.emit.served import START, free_ports, infer

names = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,8}", fullmatch=True)
labels = st.dictionaries(names, st.text(max_size=12), max_size=3)
values = st.floats(allow_nan=False)


@given(st.lists(st.builds(Sample, names, labels, values), max_size=5))
def test_what_is_written_is_read(samples):
    by_name = sorted(samples, key=lambda sample: [each.name for each in samples].index(sample.name))
    assert read_metrics(write_metrics(samples)) == by_name


def test_what_other_servers_write_is_read():
    text = '# HELP a b\n# TYPE a counter\na{x="1",} 2 1700000000\n\nb{}\t3e2\nc +Inf\n'
    assert read_metrics(text) == [
        Sample("a", {"x": "1"}, 2.0), Sample("b", {}, 300.0), Sample("c", {}, float("inf")),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line", ["a", "1a 2", "a{x=1} 2", 'a{x="1} 2', 'a{x="1"y="2"} 2', "a 1_000", "a b", "a 1 2 3", "<html>"]
)
def test_what_is_no_metric_is_refused_with_its_line(line):
    with pytest.raises(EdgevitError, match=r"^line 2: .* is no metric"):
        read_metrics(f"good 1\n{line}\n")


def look_of(at: float, *samples: Sample) -> Look:
    return Look(at, (Sample("edgevit_model_info", {"model": "m"}, 1.0), *samples))


def counts(runs: float, seconds: float, received: float) -> list[Sample]:
    of = {"device": "d", "task": "stage-0-0"}
    return [
        Sample("edgevit_device_answers", {"device": "d"}, 1.0),
        Sample("edgevit_task_runs_total", of, runs),
        Sample("edgevit_task_seconds_total", of, seconds),
        Sample("edgevit_task_received_bytes_total", of, received),
    ]


def test_rates_are_what_was_counted_between_two_looks():
    (task,) = view(look_of(10.0, *counts(100, 1.0, 0)), look_of(12.0, *counts(140, 1.8, 500))).tasks
    assert (task.runs_per_second, task.received_per_second) == (20.0, 250.0)
    assert task.now == pytest.approx(0.02)


def test_counters_that_started_anew_count_from_nothing():
    (task,) = view(look_of(10.0, *counts(100, 1.0, 900)), look_of(12.0, *counts(4, 0.1, 20))).tasks
    assert (task.runs_per_second, task.received_per_second, task.now) == (2.0, 10.0, 0.025)


def test_a_task_that_did_nothing_has_no_time_of_late():
    one = look_of(10.0, *counts(100, 1.0, 900))
    (task,) = view(one, look_of(12.0, *counts(100, 1.0, 900))).tasks
    assert (task.now, task.waits, task.runs_per_second) == (None, None, 0.0)


def test_a_device_that_says_nothing_and_another_plan_are_told():
    after = look_of(
        1.0,
        Sample("edgevit_device_answers", {"device": "d"}, 0.0),
        Sample("edgevit_plan_info", {"mode": "single", "devices": "d", "best": "no"}, 1.0),
        Sample("edgevit_requests_total", {"outcome": "degraded"}, 7.0),
    )
    seen = view(after, after)
    assert (seen.silent, seen.best, seen.outcomes["degraded"]) == (("d",), False, 7)
    text = "\n".join(lines_of(seen))
    assert "d does not answer" in text
    assert "single on d, another plan than the best" in text
    assert "no plan is running" in lines_of(view(look_of(0.0), look_of(1.0)))[0]


@pytest.mark.parametrize(
    "target", ["", "ftp://x:1", "a/b", "http://x:8000/v2", "http://x:0", "host:99999", "http://", "x y"]
)
def test_what_is_no_address_is_refused(target):
    with pytest.raises(EdgevitError, match="write a port, HOST:PORT or http://HOST:PORT"):
        metrics_url(target)


class _Other(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(404 if self.server.text is None else 200)
        self.end_headers()
        self.wfile.write((self.server.text or "").encode())

    def log_message(self, *words):
        pass


@pytest.mark.parametrize(
    ("text", "why"),
    [(None, "it answers 404"), ("<html>", "what it answers are no metrics"), ("up 1\n", "of something else")],
)
def test_another_server_is_told_from_ours(text, why, capsys):
    with HTTPServer(("127.0.0.1", 0), _Other) as server:
        server.text = text
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert run(["top", str(server.server_port), "--once"]) == 2
    error = capsys.readouterr().err
    assert "is no service of `edgevit serve`" in error
    assert why in error
    assert error.count("\n") == 1


def test_something_that_is_no_http_and_nothing_at_all_are_told(capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"SSH-2.0\r\n")

        threading.Thread(target=answer, daemon=True).start()
        port = server.getsockname()[1]
        assert run(["top", str(port)]) == 2
        assert "it does not speak HTTP" in capsys.readouterr().err
    assert run(["top", str(port)]) == 2
    assert "nothing answers (Connection refused)" in capsys.readouterr().err


@pytest.fixture(scope="module")
def service(make_plan):
    """The port of a pipeline that is asked all the time."""
    pytest.importorskip("zenoh")
    pytest.importorskip("aiohttp")
    pytest.importorskip("onnxruntime")
    (port,) = free_ports(1)
    words = ["serve", str(make_plan("pipeline")), "--local", "--no-spares", "--http", str(port)]
    process = subprocess.Popen([sys.executable, "-c", START, *words], stdout=subprocess.PIPE, text=True)
    assert "serving" in process.stdout.readline()
    ended = threading.Event()

    def ask():
        (image,) = images(1)
        while not ended.wait(0.01):
            infer(port, "tiny", image)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    yield port
    ended.set()
    asking.join()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_a_service_is_shown_once_where_there_is_no_terminal(service, capsys):
    assert run(["top", str(service), "--interval", "0.5"]) == 0
    first, second, third, head, *rows = capsys.readouterr().out.splitlines()
    assert first == "tiny   ready   pipeline on w-1, w-2, w-3"
    assert "requests/s   planned " in second
    assert third.startswith("answered ")
    assert head.split()[:4] == ["device", "task", "runs/s", "now"]
    assert [row.split()[:2] for row in rows] == [[f"w-{i + 1}", f"stage-0-{i}"] for i in range(3)]


def test_a_service_as_json_has_what_was_planned_beside_what_is(service, make_plan, capsys):
    from edgevit.planning.plan_file import PlanFile

    assert run(["top", f"http://127.0.0.1:{service}", "--json", "--interval", "0.5"]) == 0
    seen = json.loads(capsys.readouterr().out)
    entry = PlanFile.read(make_plan("pipeline")).plan
    assert seen["requests_per_second"] > 0
    assert seen["outcomes"]["answered"] > 0
    assert seen["best"] is True
    assert [task["planned"] for task in seen["tasks"]] == [task.seconds for task in entry.tasks]
    assert seen["planned_items_per_second"] == 1 / entry.bottleneck_seconds
    assert all(
        task["p50"] > 0 and task["now"] > 0 and task["received_per_second"] > 0 for task in seen["tasks"]
    )


def test_on_a_terminal_it_is_drawn_again_until_interrupted(service):
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    words = [sys.executable, "-c", START, "top", str(service), "--interval", "0.2"]
    process = subprocess.Popen(words, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    drawn = b""
    until = time.monotonic() + 60
    while drawn.count(b"tiny   ready") < 3 and time.monotonic() < until:
        drawn += os.read(master, 65536)
    process.send_signal(signal.SIGINT)
    while True:
        try:
            drawn += os.read(master, 65536)
        except OSError:
            break
    os.close(master)
    assert process.wait(20) == 0
    assert drawn.count(b"tiny   ready") >= 3
    # The cursor, hidden while it is drawn, is there again.
    assert drawn.rindex(b"\x1b[?25h") > drawn.rindex(b"\x1b[?25l")
    assert b"Traceback" not in drawn
