"""How fast bytes pass to another host, over the connection that ssh makes."""

from __future__ import annotations

import subprocess
import time

from edgevit.errors import EdgevitError
from edgevit.profiling.addresses import Address, Remote
from edgevit.profiling.ssh import explain, login_command

_SENT = 1 << 24
_PATIENCE = 60


def link_speed(address: Address, remote: Remote) -> float:
    """Bytes in a second to a host, encrypted as ssh sends them.

    What a login takes is in two transfers alike, a small and a large one, and not in their difference.

    Args:
        address: of the host, by ssh; any system with a shell will do.
        remote: how ssh is used.

    Raises:
        EdgevitError: when it cannot be reached.
    """
    small, large = (min(_seconds(address, remote, size) for _ in range(2)) for size in (1, _SENT))
    if large <= small:
        raise EdgevitError(f"--link {address}: logging in varies more than {_SENT} bytes take; try again")
    return (_SENT - 1) / (large - small)


def _seconds(address: Address, remote: Remote, size: int) -> float:
    command = [*login_command(address, remote), "cat > /dev/null"]
    started = time.perf_counter()
    try:
        done = subprocess.run(  # noqa: S603 - a list of arguments, no shell
            command, input=bytes(size), capture_output=True, check=False, timeout=_PATIENCE
        )
    except subprocess.TimeoutExpired as error:
        raise EdgevitError(f"--link {address}: {size} bytes took more than {_PATIENCE} s") from error
    if done.returncode:
        complaints = done.stderr.decode("utf-8", "replace")
        raise EdgevitError(f"--link {address}: {explain(address, remote, done.returncode, complaints)}")
    return time.perf_counter() - started
