"""The probe on a device that the system's ssh reaches: one connection brings it, runs it and reads it.

Nothing has to be installed there but Python and a runtime's wheel. Over the connection the device's Python
is given a program (`edgevit.profiling.receiver`), the probe and the artefact; what it writes lies in one
temporary folder, which it removes when the run ends, and when the connection does.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgevit.errors import EdgevitError, MissingDependencyError
from edgevit.profiling import receiver
from edgevit.profiling.addresses import Address, Remote
from edgevit.profiling.packed import NAME, packed_probe
from edgevit.profiling.running import Run, ending, hang_up, send, started

# Never a question, for nobody is there to answer it; a dead connection is noticed within 15 seconds.
_OPTIONS = (
    *("-o", "BatchMode=yes", "-o", "ConnectTimeout=10"),
    *("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"),
)
_OLDEST = (3, 8)
_TOO_OLD = "edgevit-python-too-old"

# Import names that a runtime needs, each with those that may stand in for it.
_NEEDS = {
    "onnxruntime": (("numpy",), ("onnxruntime",)),
    "litert": (("numpy",), ("ai_edge_litert", "tflite_runtime")),
    "opencv": (("numpy",), ("cv2",)),
}
_WHEELS = {"ai_edge_litert": "ai-edge-litert", "cv2": "opencv-python-headless"}
_CHUNK = 1 << 20

# Exit statuses of ssh itself, and of a shell that finds no such program.
_SSH_FAILED, _NOT_FOUND, _NOT_EXECUTABLE = 255, 127, 126

# What ssh says, and what it means, in its order of telling; the first that fits.
_MEANINGS = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key is not the one that is known: it was installed anew, or another machine answers in its "
        "place; if you know why, remove the old key with `ssh-keygen -R`",
    ),
    (
        "Host key verification failed",
        "its host key is not known here; log in once with `{login}`, and compare the fingerprint",
    ),
    (
        "Permission denied",
        "it refused the key; put yours there with `ssh-copy-id`, or name another in ssh's configuration",
    ),
    ("Could not resolve hostname", "no such host is known; check its name"),
    ("Connection refused", "it answers, but no ssh server does; check the port, and that sshd runs"),
    ("timed out", "it does not answer; check that it is on and on this network"),
    ("No route to host", "there is no way to it; check that it is on and on this network"),
    ("Network is unreachable", "there is no way to it; check this machine's network"),
)
# By what a system calls itself in /etc/os-release.
_INSTALLERS = {
    "debian": "sudo apt-get install python3 python3-venv",
    "fedora": "sudo dnf install python3",
    "alpine": "sudo apk add python3",
    "arch": "sudo pacman -S python",
    "opensuse": "sudo zypper install python3",
}


@contextlib.contextmanager
def ssh_run(
    address: Address, remote: Remote, files: Sequence[tuple[str, Path]], options: Mapping[str, Any]
) -> Iterator[Run]:
    """The probe on the device, given its files.

    Args:
        address: of the device.
        remote: how it is used.
        files: the artefact first, each with the name it is to have there.
        options: of the probe; the artefact is named as in `files`.

    Raises:
        MissingDependencyError: when this machine has no ssh.
    """
    if shutil.which("ssh") is None:
        raise MissingDependencyError(f"--device {address}: this machine has no ssh; install OpenSSH's client")
    program = Path(receiver.__file__).read_bytes()
    login = login_command(address, remote)

    def explained(status: int, complaints: str) -> str:
        return explain(address, remote, status, complaints)

    command = [*login, _remote_command(remote.python, len(program))]
    with started(command, stop=hang_up, explain=explained) as run:
        probe = packed_probe()
        listed = [(NAME, len(probe)), *((name, path.stat().st_size) for name, path in files)]
        wanted = {"needs": _NEEDS[options["runtime"]], "folder": remote.folder}
        header = json.dumps({**wanted, "files": listed, "options": options}).encode() + b"\n"
        # A device that refuses says why, and stops listening.
        if send(run.process, program + header + probe):
            _send_files(run.process, [path for _, path in files])
        yield run


def _send_files(process: subprocess.Popen[bytes], paths: Sequence[Path]) -> None:
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                if not send(process, chunk):
                    return


def login_command(address: Address, remote: Remote) -> list[str]:
    """Ssh to a device; what it is to run there comes behind."""
    config = () if remote.ssh_config is None else ("-F", str(remote.ssh_config))
    return ["ssh", *config, *_OPTIONS, "--", str(address)]


def _remote_command(python: str, size: int) -> str:
    """For a device's shell: a Python that reads its program from standard input."""
    start = (
        f"import sys; sys.exit({_TOO_OLD!r}) if sys.version_info < {_OLDEST} "
        f"else exec(sys.stdin.buffer.read({size}))"
    )
    return f"{_quoted(python)} -c {shlex.quote(start)}"


def _quoted(path: str) -> str:
    """A path for a shell, which is left to say where ~ is."""
    return "~/" + shlex.quote(path[2:]) if path.startswith("~/") else shlex.quote(path)


def explain(address: Address, remote: Remote, status: int, complaints: str) -> str:
    """A sentence for an exit status of ssh or of what it ran, and what was said."""
    login = shlex.join(["ssh", str(address)])
    if status == _SSH_FAILED:
        for words, meaning in _MEANINGS:
            if words in complaints:
                return meaning.format(login=login)
        return "the connection was lost"
    if _TOO_OLD in complaints:
        oldest = ".".join(map(str, _OLDEST))
        return f"its {remote.python} is older than Python {oldest}; name another with --python"
    if status in (_NOT_FOUND, _NOT_EXECUTABLE):
        if remote.python != Remote.python:
            return f"it has no {remote.python}; name a Python that is there with --python"
        installer = _installer(login_command(address, remote))
        return f"it has no python3; install it with `{login} {installer}`, or name a Python with --python"
    return (complaints.strip().splitlines() or [ending(status)])[-1]


def _installer(login: Sequence[str]) -> str:
    """The command that installs Python on a device, by its distribution."""
    asked = subprocess.run(  # noqa: S603 - a list of arguments, no shell
        [*login, "cat /etc/os-release"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    facts = dict(line.split("=", 1) for line in asked.stdout.splitlines() if "=" in line)
    names = f"{facts.get('ID', '')} {facts.get('ID_LIKE', '')}".replace('"', "").split()
    return next((_INSTALLERS[name] for name in names if name in _INSTALLERS), _INSTALLERS["debian"])


def explain_problem(address: Address, remote: Remote, problem: Mapping[str, Any]) -> EdgevitError:
    """What keeps a device from running the probe, with what would help."""
    if problem["problem"] == "lacking":
        return _lacking(address, remote, problem)
    folder = problem["folder"]
    causes = {
        "ENOSPC": f"there is no room in its folder {folder}",
        "EDQUOT": f"there is no room in its folder {folder} for this user",
        "EROFS": f"its folder {folder} is on a read-only disk",
        "EACCES": f"its folder {folder} cannot be written",
        "ENOENT": f"it has no folder {folder}",
    }
    cause = causes.get(problem["code"], f"its folder {folder} cannot be used: {problem['words']}")
    return EdgevitError(f"{address}: {cause}; name another with --remote-folder")


def _lacking(address: Address, remote: Remote, problem: Mapping[str, Any]) -> MissingDependencyError:
    wheels = " ".join(_WHEELS.get(name, name) for name in problem["modules"])
    login = shlex.join(["ssh", str(address)])
    python = _quoted(remote.python)
    run = f"{python} -m pip install {wheels}"
    then = ""
    if problem["managed"]:
        # This Python is its distribution's: pip leaves it alone.
        run = f"{python} -m venv ~/edgevit && ~/edgevit/bin/pip install {wheels}"
        then = ", then pass --python '~/edgevit/bin/python'"
    return MissingDependencyError(
        f"{address}: its {remote.python} (Python {problem['python']}, {problem['machine']}) has no {wheels}: "
        f"run `{login} {shlex.quote(run)}`{then}"
    )
