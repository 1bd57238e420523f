"""Sent to a device's Python, which runs it: receives files, runs the probe on them, and leaves nothing.

Stand-alone. Standard input brings one line of JSON, then the files' bytes, and stays open for as long as
whoever asked is there: its end means that they are gone, or want no more.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
from pathlib import Path
from typing import Any

_CHUNK = 1 << 16
_FAILED = 1


def main() -> int:
    """Do what the line of JSON says; the exit status."""
    wanted = json.loads(sys.stdin.buffer.readline().decode())
    lacking = [names[0] for names in wanted["needs"] if not any(map(importlib.util.find_spec, names))]
    if lacking:
        managed = Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED"
        return say(
            "lacking",
            modules=lacking,
            python=platform.python_version(),
            machine=platform.machine(),
            managed=sys.prefix == sys.base_prefix and managed.exists(),
        )
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(_FAILED))
    parent = wanted["folder"] or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - made safely below
    folder = None
    try:
        folder = tempfile.mkdtemp(prefix="edgevit-", dir=parent)
        for name, size in wanted["files"]:
            receive(Path(folder) / name, size)
        return run(folder, wanted)
    except OSError as error:
        return say(
            "disk", code=errno.errorcode.get(error.errno or 0, ""), words=error.strerror, folder=parent
        )
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def receive(path: Path, size: int) -> None:
    """Write so many of the bytes that come next."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        while size:
            chunk = sys.stdin.buffer.read(min(size, _CHUNK))
            if not chunk:
                sys.exit(_FAILED)
            file.write(chunk)
            size -= len(chunk)


def run(folder: str, wanted: dict[str, Any]) -> int:
    """The probe, until it ends or standard input does; its exit status."""
    child = subprocess.Popen(  # noqa: S603
        [sys.executable, wanted["files"][0][0]],
        cwd=folder,
        stdin=subprocess.PIPE,
        # What a runtime makes for itself goes as well: ONNX Runtime leaves a file there.
        env={**os.environ, "TMPDIR": folder},
    )
    try:
        child.stdin.write(json.dumps(wanted["options"]).encode() + b"\n")  # type: ignore[union-attr]
        child.stdin.flush()  # type: ignore[union-attr]
        threading.Thread(target=wait_for_end, args=(child,), daemon=True).start()
        return child.wait()
    finally:
        child.kill()
        child.wait()


def wait_for_end(child: subprocess.Popen[bytes]) -> None:
    """End the probe when standard input ends."""
    # Not the buffered reader: its lock could not be let go of when Python exits.
    while os.read(0, _CHUNK):
        pass
    child.kill()


def say(problem: str, **facts: Any) -> int:
    """Report what keeps the probe from running."""
    sys.stdout.write(json.dumps({"event": "problem", "problem": problem, **facts}) + "\n")
    sys.stdout.flush()
    return _FAILED


if __name__ == "__main__":
    sys.exit(main())
