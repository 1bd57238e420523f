"""Over ssh, against a real sshd on loopback: the same report, clear words, and nothing left on the device."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgevit.cli import run
from edgevit.errors import MissingDependencyError
from edgevit.profiling import ssh
from edgevit.profiling.addresses import Address, Remote
from tests.profiling.sshd import client_config, device, key, needs_sshd

pytestmark = needs_sshd

EDGEVIT = [sys.executable, "-c", "from edgevit.cli import main; main()"]
SHORT = ["--threads", "1", "--runs", "5", "--seconds", "0"]


@pytest.fixture(scope="module")
def pi(tmp_path_factory):
    """A device that nothing is wrong with."""
    with device(tmp_path_factory.mktemp("pi")) as started:
        yield started


@pytest.fixture(autouse=True)
def of_the_right_user(request):
    """After a test that changed it."""
    yield
    if "pi" in request.fixturenames:
        client_config(request.getfixturevalue("pi").folder)


def refused(capsys, status, artefact, *arguments):
    """The one line on standard error."""
    assert run(["profile", str(artefact), *arguments]) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1, printed.err
    return printed.err


def wait_until(condition, what):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.1)
    pytest.fail(what)


def test_the_report_is_the_one_of_this_machine(pi, tiny_onnx, capsys):
    assert run(["profile", str(tiny_onnx), *pi.arguments, *SHORT, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["device"] == pi.address
    assert summary["runs"] == 5
    assert summary["runtime"].startswith("onnxruntime ")
    assert summary["peak_memory_mb"] > 0
    assert {row[0] for row in summary["operators"]["by_block"]} >= {"conv", "qkv", "head"}
    assert pi.left() == []


def test_weights_in_a_file_of_their_own_go_along(pi, tiny_onnx, tmp_path, capsys):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(tiny_onnx)
    del model.metadata_props[:]
    model.doc_string = ""
    onnx.save(
        model, tmp_path / "a.onnx", save_as_external_data=True, location="weights.bin", size_threshold=256
    )
    assert run(["profile", str(tmp_path / "a.onnx"), *pi.arguments, *SHORT, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == 5
    assert pi.left() == []


def test_an_option_that_the_device_cannot_follow_is_one_sentence(pi, tiny_onnx, capsys):
    sentence = refused(capsys, 2, tiny_onnx, *pi.arguments, *SHORT, "--delegate", "cudo")
    assert (
        f"{tiny_onnx} on {pi.address} could not be profiled: --delegate: the device's ONNX Runtime"
        in sentence
    )
    assert pi.left() == []


def test_the_machine_itself_is_measured_and_the_line_to_it(pi, tmp_path):
    pytest.importorskip("onnx")
    from edgevit.profiles import load_profile

    path = tmp_path / "pi.yaml"
    few = ("--models", "mobilevit_xxs", "--formats", "onnx", "--threads", "1")
    assert run(["profile", "--suite", *pi.arguments, *few, "--link", pi.address, "-o", str(path)]) == 0
    measured = load_profile(path).measured
    assert [link.to for link in measured.links] == [pi.address]
    assert measured.links[0].bytes_per_second > 1e5
    assert measured.of("onnxruntime").operators
    assert pi.left() == []


class TestWhatKeepsItFromRunning:
    def test_a_host_key_that_is_not_known(self, pi, tiny_onnx, capsys):
        client_config(pi.folder, known=False)
        sentence = refused(capsys, 2, tiny_onnx, *pi.arguments, *SHORT)
        assert "its host key is not known here; log in once with `ssh ssh://" in sentence
        assert not (pi.folder / "nobody").exists()

    def test_a_host_key_that_has_changed(self, pi, tiny_onnx, capsys):
        known, other = pi.folder / "known", key(pi.folder / "other-host").with_suffix(".pub")
        right = known.read_text()
        known.write_text(f"[127.0.0.1]:{pi.port} {' '.join(other.read_text().split()[:2])}\n")
        try:
            sentence = refused(capsys, 2, tiny_onnx, *pi.arguments, *SHORT)
        finally:
            known.write_text(right)
        assert "its host key is not the one that is known" in sentence

    def test_a_key_that_is_refused(self, pi, tiny_onnx, capsys):
        key(pi.folder / "stranger")
        client_config(pi.folder, identity="stranger")
        sentence = refused(capsys, 2, tiny_onnx, *pi.arguments, *SHORT)
        assert "it refused the key; put yours there with `ssh-copy-id`" in sentence

    def test_a_port_where_nobody_listens(self, pi, tiny_onnx, capsys):
        arguments = [*pi.arguments, *SHORT, "--device", "ssh://127.0.0.1:9"]
        assert "check the port, and that sshd runs" in refused(capsys, 2, tiny_onnx, *arguments)

    def test_a_python_that_is_not_there(self, pi, tiny_onnx, capsys):
        sentence = refused(capsys, 2, tiny_onnx, *pi.arguments, *SHORT, "--python", "~/no/python3")
        assert "it has no ~/no/python3; name a Python that is there with --python" in sentence

    def test_no_python_at_all(self, tmp_path, tiny_onnx, capsys):
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "cat").symlink_to(str(shutil.which("cat")))
        with device(tmp_path, f"SetEnv PATH={tmp_path / 'bin'}") as bare:
            arguments = [*bare.arguments, *SHORT, "--python", "python3"]
            sentence = refused(capsys, 2, tiny_onnx, *arguments)
        assert f"it has no python3; install it with `ssh {bare.address} sudo " in sentence

    def test_a_runtime_that_is_not_installed(self, pi, tiny_onnx, capsys):
        """Python without its packages, as a distribution brings it."""
        python = pi.folder / "bare-python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
        python.chmod(0o755)
        sentence = refused(capsys, 3, tiny_onnx, *pi.arguments, *SHORT, "--python", str(python))
        assert "has no numpy onnxruntime: run `ssh ssh://" in sentence
        assert "pip install numpy onnxruntime'`" in sentence
        assert pi.left() == []

    def test_a_python_that_is_too_old(self, pi, tiny_onnx, capsys):
        """Nothing here is that old: one that says so, and leaves before anything else is read."""
        python = pi.folder / "old-python"
        start = "import sys; sys.version_info = (3, 6); exec(sys.argv[1])"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{start}" "$2"\n')
        python.chmod(0o755)
        sentence = refused(capsys, 2, tiny_onnx, *pi.arguments, *SHORT, "--python", str(python))
        assert "is older than Python 3.8; name another with --python" in sentence

    def test_a_folder_that_is_not_there(self, pi, tiny_onnx, capsys):
        arguments = [*pi.arguments, *SHORT, "--remote-folder", "/no/such/folder"]
        sentence = refused(capsys, 2, tiny_onnx, *arguments)
        assert "it has no folder /no/such/folder; name another with --remote-folder" in sentence


@contextlib.contextmanager
def mounted(folder: Path, options: str):
    """A small disk; only root can make one."""
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_full(pi, tiny_onnx, tmp_path, capsys):
    with mounted(tmp_path / "small", "size=16k") as small:
        sentence = refused(capsys, 2, tiny_onnx, *pi.arguments, *SHORT, "--remote-folder", str(small))
        assert f"there is no room in its folder {small}; name another with --remote-folder" in sentence
        assert [*small.iterdir()] == []


def test_a_disk_that_is_read_only(pi, tiny_onnx, tmp_path, capsys):
    with mounted(tmp_path / "read-only", "ro,size=1m") as disk:
        sentence = refused(capsys, 2, tiny_onnx, *pi.arguments, *SHORT, "--remote-folder", str(disk))
        assert f"its folder {disk} is on a read-only disk" in sentence


def started_on(pi, artefact):
    """A long measurement, once it is under way on the device."""
    process = subprocess.Popen(
        [*EDGEVIT, "profile", str(artefact), *pi.arguments, *SHORT, "--sustained", "10", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: pi.left() or process.poll() is not None, "nothing was sent")
    # Some seconds of load are to be there.
    time.sleep(4)
    return process


def processes_on(pi):
    """Numbers of the processes that serve a connection."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pi.process.pid)], capture_output=True, text=True, check=False
    )
    return [int(number) for number in listed.stdout.split()]


def test_a_device_that_disappears_leaves_a_partial_report(pi, tiny_onnx):
    process = started_on(pi, tiny_onnx)
    for number in processes_on(pi):
        os.kill(number, signal.SIGKILL)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert "the connection was lost; the report is partial, with 5 timed runs" in errors
    summary = json.loads(printed)
    assert summary["partial"] == "the connection was lost"
    assert summary["sustained"]["seconds"]
    wait_until(lambda: pi.left() == [], "the device was not left clean")


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupt_leaves_a_partial_report_and_a_clean_device(pi, tiny_onnx, number):
    process = started_on(pi, tiny_onnx)
    os.killpg(process.pid, number)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert json.loads(printed)["partial"] == "interrupted"
    # Not at some time later: the command ends when the device is clean.
    assert pi.left() == []


@pytest.mark.slow
def test_a_client_that_is_killed_leaves_a_clean_device(pi, tiny_onnx):
    process = started_on(pi, tiny_onnx)
    os.killpg(process.pid, signal.SIGKILL)
    listed = subprocess.run(["pgrep", "-f", f"ssh .*{pi.port}"], capture_output=True, text=True, check=False)
    process.communicate(timeout=60)
    assert listed.stdout.split(), "ssh ran in a session of its own"
    wait_until(lambda: pi.left() == [], "the device was not left clean")


def test_a_python_of_the_distribution_is_left_alone():
    """pip refuses to change it (PEP 668): an environment is proposed."""
    lacking = {"problem": "lacking", "modules": ["ai_edge_litert"], "python": "3.11.2", "machine": "aarch64"}
    address = Address("ssh", "pi@raspberrypi")
    error = ssh.explain_problem(address, Remote(), {**lacking, "managed": True})
    assert isinstance(error, MissingDependencyError)
    assert (
        "`ssh ssh://pi@raspberrypi 'python3 -m venv ~/edgevit && ~/edgevit/bin/pip install ai-edge-litert'`"
        in str(error)
    )
    assert str(error).endswith("then pass --python '~/edgevit/bin/python'")
