"""Where an artefact is profiled: this machine, one that ssh reaches, or one that adb reaches."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from edgevit.errors import EdgevitError

LOCAL = "local"

# Nothing that a program could take for an option, or a shell for more than a name.
_NAME = re.compile(r"[A-Za-z0-9_][\w.:%@-]*")


@dataclass(frozen=True)
class Address:
    """A device that is not this machine.

    Attributes:
        scheme: "ssh" or "adb".
        name: what ssh or adb calls it: ``user@host``, or a serial number.
        port: of ssh; None for the one that it is configured with.
    """

    scheme: str
    name: str
    port: int | None = None

    def __str__(self) -> str:
        """As it was given."""
        return f"{self.scheme}://{self.name}" + ("" if self.port is None else f":{self.port}")


@dataclass(frozen=True)
class Remote:
    """How a device is used that is not this machine.

    Attributes:
        python: the Python that runs the probe (ssh), a path on the device.
        folder: where the device holds the files while they run; None for ``$TMPDIR`` or /tmp (ssh),
            /data/local/tmp (adb).
        ssh_config: a configuration for ssh instead of the user's own.
        benchmark_model: LiteRT's tool, built for the device (adb).
    """

    python: str = "python3"
    folder: str | None = None
    ssh_config: Path | None = None
    benchmark_model: Path | None = None


def address_of(device: str) -> Address | None:
    """Where a device is; None for this machine.

    Raises:
        EdgevitError: when it is no address.
    """
    if device == LOCAL:
        return None
    scheme, separator, name = device.partition("://")
    if separator and scheme == "adb" and _NAME.fullmatch(name):
        return Address(scheme, name)
    if separator and scheme == "ssh":
        found = _ssh(device)
        if found is not None:
            return found
    raise EdgevitError(
        f"--device: {device!r} is no place to run; give local, ssh://user@host[:port] or adb://SERIAL"
    )


def _ssh(device: str) -> Address | None:
    parts = urlsplit(device)
    try:
        port = parts.port
    except ValueError:
        return None
    if parts.path.strip("/") or parts.query or parts.fragment or parts.password or not parts.hostname:
        return None
    # Not `hostname`, which is in small letters: ssh's configuration tells them apart.
    name = parts.netloc if port is None else parts.netloc.rpartition(":")[0]
    bare = name.replace("[", "").replace("]", "")
    return Address("ssh", name, port) if _NAME.fullmatch(bare) else None
