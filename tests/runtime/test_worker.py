"""Workers: what they need, what they refuse, what they keep."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("zenoh")
pytest.importorskip("onnxruntime")

from edgevit.cli import run
from edgevit.errors import EdgevitError
from edgevit.runtime import transport
from edgevit.runtime.cache import Cache
from edgevit.runtime.messages import (
    Admission,
    Announcement,
    Artefact,
    Assignment,
    MessageError,
    Status,
    Task,
    read,
    write,
)
from edgevit.runtime.worker import Worker, WorkerOptions

ARTEFACT = Artefact("0" * 64, "onnx", 10)
TASK = Task(
    "stage-0-0", "entry", "coordinator", 0, ARTEFACT, ("image",), ("logits",), ("logits",), False, ("", "")
)
ASSIGNMENT = Assignment("run", 1, 4, (TASK,), (ARTEFACT,))


FRESH = """
import sys, threading
before = set(sys.modules)
from pathlib import Path
from edgevit.runtime.transport import Links
from edgevit.runtime.worker import Worker, WorkerOptions
worker = Worker(WorkerOptions("fresh", Links(), cache=Path(sys.argv[1])))
from edgevit.runtime.engines import open_engine
open_engine(Path(sys.argv[2]), "onnx", 1)
worker.close()
names = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(names - set(sys.stdlib_module_names)))
"""


def test_a_worker_imports_what_a_device_has_and_nothing_else(tiny_onnx, tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", FRESH, str(tmp_path), str(tiny_onnx)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = set(result.stdout.split())
    assert {"zenoh", "numpy", "onnxruntime"} <= found
    assert not found & {"torch", "pydantic", "yaml", "cv2", "scipy", "onnx", "click"}
    assert {name for name in found if name.startswith("edgevit")} == {"edgevit"}


@pytest.fixture
def worker(tmp_path):
    made = Worker(WorkerOptions("w", transport.Links(), cache=tmp_path / "cache"))
    yield made
    made.close()


def ask(worker, question, payload=b""):
    """What it replies, or the sentence with which it refuses."""
    for reply in worker._session.get(transport.worker_key("w", question), payload=payload, timeout=5.0):
        return reply.ok.payload.to_bytes() if reply.ok else reply.err.payload.to_string()
    return None


def test_a_worker_announces_what_it_runs(worker):
    found = read(Announcement, ask(worker, "about"))
    assert found.name == "w"
    assert "onnx" in found.formats
    assert "onnxruntime" in found.runtime
    assert found.memory_bytes > 0


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        (b"", "is no JSON"),
        (b"[1]", "must be an object"),
        (b"{}", "has other keys"),
        (b"[" * 100_000, "is no JSON"),
        (json.dumps({**asdict(ASSIGNMENT), "code": "import os"}).encode(), "has other keys"),
        (json.dumps({**asdict(ASSIGNMENT), "capacity": "4"}).encode(), "capacity must be of type int"),
        (json.dumps({**asdict(ASSIGNMENT), "deployment": "../x"}).encode(), "use letters"),
        (
            json.dumps(
                {**asdict(ASSIGNMENT), "keep": [{**asdict(ARTEFACT), "sha256": "../../etc/passwd"}]}
            ).encode(),
            "is no SHA-256",
        ),
        (
            json.dumps({**asdict(ASSIGNMENT), "keep": [{**asdict(ARTEFACT), "format": "py"}]}).encode(),
            "artefact of format 'py'",
        ),
        (write(ASSIGNMENT), "nobody gives the bytes"),
    ],
)
def test_a_worker_refuses_in_a_sentence_and_goes_on(worker, payload, sentence):
    refused = ask(worker, "assign", payload)
    assert sentence in refused
    assert "\n" not in refused
    assert ask(worker, "assign", write(replace(ASSIGNMENT, tasks=(), keep=(), generation=9))) == b"ready"


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        (b"{}", "has other keys"),
        (b'{"devices": []}', "must have devices"),
        (b'{"devices": ["w", "a/*"]}', "use letters"),
        (b'{"devices": ["w", "coordinator"]}', "is the name of whoever runs plans"),
        (write(Admission(("v", "x"))), "w is not among the devices"),
        (write(Admission(("v", "w"))), b"ready"),
    ],
)
def test_a_worker_is_admitted_to_plans_that_it_is_in(worker, payload, sentence):
    assert sentence in ask(worker, "admit", payload)
    assert read(Announcement, ask(worker, "about")).name == "w"


def test_an_assignment_that_is_over_is_refused(worker):
    blank = replace(ASSIGNMENT, tasks=(), keep=())
    assert ask(worker, "assign", write(replace(blank, generation=2))) == b"ready"
    assert "generation 1 is over" in ask(worker, "assign", write(blank))
    assert read(Status, ask(worker, "status")).generation == 2


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
texts = st.lists(st.text(max_size=10), min_size=1, max_size=3).map(tuple)
artefacts = st.builds(
    Artefact,
    st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    st.sampled_from(["onnx", "tflite"]),
    st.integers(1, 10**12),
)
tasks = st.builds(
    Task,
    names,
    names,
    names,
    st.integers(0, 9),
    artefacts,
    texts,
    texts,
    texts,
    st.booleans(),
    st.tuples(names, names),
)
assignments = st.builds(
    Assignment,
    names,
    st.integers(0, 9),
    st.integers(1, 65536),
    st.lists(tasks, max_size=2, unique_by=lambda task: task.key).map(tuple),
    st.lists(artefacts, max_size=2).map(tuple),
)


@given(assignments)
def test_an_assignment_is_read_as_it_was_written(assignment):
    found = read(Assignment, write(assignment))
    assert asdict(found) == asdict(assignment)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_other_json_is_refused(value):
    with pytest.raises(MessageError):
        read(Assignment, json.dumps(value).encode())


def content(letter: str, size: int = 40):
    data = letter.encode() * size
    return Artefact(hashlib.sha256(data).hexdigest(), "onnx", size), lambda offset: data[offset : offset + 16]


def test_the_cache_keeps_what_was_used_last_within_its_limit(tmp_path):
    cache = Cache(tmp_path, 100)
    (a, get_a), (b, get_b), (c, get_c) = content("a"), content("b"), content("c")
    first = cache.get(a, get_a)
    assert first.read_bytes() == b"a" * 40
    cache.get(b, get_b)
    cache.get(a, lambda offset: pytest.fail("it is there already"))
    cache.get(c, get_c)
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted([a.sha256, c.sha256])


def test_the_cache_never_drops_what_is_in_use(tmp_path):
    cache = Cache(tmp_path, 60)
    (a, get_a), (b, get_b) = content("a"), content("b")
    cache.get(a, get_a)
    cache.get(b, get_b, used={a.sha256})
    assert len(list(tmp_path.iterdir())) == 2


def test_an_altered_file_is_fetched_again(tmp_path):
    cache = Cache(tmp_path, 100)
    a, get_a = content("a")
    path = cache.get(a, get_a)
    path.write_bytes(b"b" * 40)
    assert cache.get(a, get_a).read_bytes() == b"a" * 40


@pytest.mark.parametrize(
    ("fetch", "sentence"),
    [
        (lambda offset: b"b" * 10, "another SHA-256"),
        (lambda offset: b"", "0 bytes arrived, 40 were announced"),
        (lambda offset: b"a" * 41, "41 bytes arrived, 40 were announced"),
    ],
)
def test_what_is_not_the_artefact_is_not_kept(tmp_path, fetch, sentence):
    with pytest.raises(EdgevitError, match=sentence):
        Cache(tmp_path, 100).get(content("a")[0], fetch)
    assert list(tmp_path.iterdir()) == []


def test_an_artefact_larger_than_the_cache_is_refused(tmp_path):
    with pytest.raises(EdgevitError, match="raise --cache-limit"):
        Cache(tmp_path, 39).get(content("a")[0], content("a")[1])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--name", "a/b"], "--name 'a/b': use letters"),
        (["--name", "coordinator"], "is the name of whoever runs plans"),
        (["--name", "a", "--listen", "192.168.1.1:7447"], "give --tls DIR"),
        (["--name", "a", "--threads", "0"], "--threads 0"),
        (["--name", "a", "--profile", "none.yaml"], "--profile none.yaml: does not exist"),
        (["--name", "a", "--cache-limit", "much"], "--cache-limit much"),
    ],
)
def test_a_mistake_is_one_sentence(capsys, words, sentence):
    assert run(["worker", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_what_a_command_logs_goes_nowhere_once_it_has_ended():
    run(["worker", "--name", "a", "--threads", "0"])
    log, root = logging.getLogger("edgevit"), logging.getLogger()
    assert (log.handlers, log.level) == ([], logging.NOTSET)
    # Whatever runs next in the process is as quiet as before.
    assert root.level == logging.WARNING


def test_a_request_to_end_that_another_thread_gets_ends_the_wait():
    code = (
        "import signal, threading, time\n"
        "from edgevit.cli.worker import until_stopped\n"
        "wait = until_stopped()\n"
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
        "print('waits', flush=True)\n"
        "wait()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "waits\n"
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
