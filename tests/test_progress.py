"""Progress is for terminals: on one it is shown on standard error, elsewhere nothing is."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

CODE = (
    "import sys, time\n"
    "from edgevit.progress import track, working, silence\n"
    "if 'quiet' in sys.argv: silence()\n"
    "with working('thinking hard'): time.sleep(0.3)\n"
    "print(sum(track(range(20), 'counting sheep', 20)))\n"
)


def on_a_terminal(*arguments: str) -> tuple[str, str]:
    """What the code prints, and what stands on the terminal that is its standard error."""
    controller, terminal = pty.openpty()
    process = subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
        check=True,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(terminal)
    shown = b""
    # Linux ends a terminal whose other side is closed with an error, macOS with nothing.
    while True:
        try:
            part = os.read(controller, 4096)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(controller)
    return process.stdout, shown.decode()


def test_a_terminal_shows_bars_and_spinners():
    printed, shown = on_a_terminal()
    assert printed == "190\n"
    assert "counting sheep" in shown
    assert "thinking hard" in shown


def test_quiet_shows_nothing():
    assert on_a_terminal("quiet") == ("190\n", "")


def test_a_file_gets_no_progress():
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("190\n", "")
