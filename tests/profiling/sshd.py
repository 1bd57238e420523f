"""A real sshd on loopback, with keys of its own and no service manager, and a client's configuration."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# A daemon is asked for by its whole path: it starts itself anew for each connection.
SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")

needs_sshd = pytest.mark.skipif(
    SSHD is None or shutil.which("ssh") is None,
    reason="no sshd here (Debian: apt-get install openssh-server openssh-client)",
)


@dataclass(frozen=True)
class Device:
    """Where it listens, and what it is told.

    Attributes:
        folder: of its keys and configuration.
        port: on loopback.
        process: the daemon.
        tmp: where what runs there makes temporary files.
    """

    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    tmp: Path

    @property
    def address(self) -> str:
        return f"ssh://{os.environ.get('USER', 'root')}@127.0.0.1:{self.port}"

    @property
    def arguments(self) -> list[str]:
        """Of `edgevit profile`: this device, with the Python of the tests."""
        config = str(self.folder / "client")
        return ["--device", self.address, "--ssh-config", config, "--python", sys.executable]

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def left(self) -> list[str]:
        """What is in its temporary folder."""
        return [path.name for path in self.tmp.iterdir()]


def key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def client_config(folder: Path, *, known: bool = True, identity: str = "user") -> Path:
    """What ssh is told instead of the user's own configuration; no other key of theirs is offered."""
    lines = [
        f"UserKnownHostsFile {folder / ('known' if known else 'nobody')}",
        "GlobalKnownHostsFile /dev/null",
        f"IdentityFile {folder / identity}",
        "IdentitiesOnly yes",
        "IdentityAgent none",
    ]
    path = folder / "client"
    path.write_text("\n".join(lines) + "\n")
    return path


@contextlib.contextmanager
def device(folder: Path, *settings: str, tmp: Path | None = None) -> Iterator[Device]:
    """An sshd that runs until the block ends.

    Args:
        folder: of its own.
        settings: more lines of sshd_config.
        tmp: the temporary folder of what runs there.
    """
    tmp = tmp or folder / "tmp"
    tmp.mkdir(exist_ok=True)
    key(folder / "host")
    key(folder / "user")
    shutil.copy(folder / "user.pub", folder / "authorized")
    # A privileged sshd wants this folder, which a service manager would make.
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    host_key = (folder / "host.pub").read_text().split()[:2]
    (folder / "known").write_text(f"[127.0.0.1]:{port} {' '.join(host_key)}\n")
    client_config(folder)
    environment = [
        f"TMPDIR={tmp}",
        *(line.removeprefix("SetEnv ") for line in settings if line.startswith("SetEnv ")),
    ]
    config = [
        "ListenAddress 127.0.0.1",
        f"HostKey {folder / 'host'}",
        f"AuthorizedKeysFile {folder / 'authorized'}",
        f"PidFile {folder / 'pid'}",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "UsePAM no",
        # The folders of a test may be anybody's.
        "StrictModes no",
        # The first line of its kind is the one that counts.
        f"SetEnv {' '.join(environment)}",
        *(line for line in settings if not line.startswith("SetEnv ")),
    ]
    (folder / "sshd_config").write_text("\n".join(config) + "\n")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(SSHD), "-D", "-e", "-f", str(folder / "sshd_config"), "-p", str(port)], stderr=log
        )
    try:
        wait_until_it_listens(process, port, folder / "log")
        yield Device(folder, port, process, tmp)
    finally:
        process.terminate()
        process.wait(10)


def wait_until_it_listens(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail(f"sshd did not start: {log.read_text()}")
