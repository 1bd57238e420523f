"""Hosts on one machine: network namespaces on a bridge, each with a line of its own. Needs root."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

#: An edgevit command in a process of its own.
COMMAND = [sys.executable, "-c", "from edgevit.cli import main; main()"]
BRIDGE = "evt-bridge"


def sh(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True)


def inside(host: str, *words: object) -> list[str]:
    """A command as it runs on a host; the process is the command's own."""
    return ["ip", "netns", "exec", host, *map(str, words)]


def address(place: int) -> str:
    return f"10.77.0.{place + 1}"


@contextlib.contextmanager
def network(count: int, mbit: float | None = None) -> Iterator[list[str]]:
    """Names of the hosts, the first of which has `address(0)`.

    Args:
        count: of them.
        mbit: a second that each line carries, each way (tc tbf); None for as much as it can.
    """
    hosts = [f"evt-{place + 1}" for place in range(count)]
    with contextlib.ExitStack() as stack:
        sh("ip", "link", "add", BRIDGE, "type", "bridge")
        stack.callback(sh, "ip", "link", "del", BRIDGE)
        sh("ip", "link", "set", BRIDGE, "up")
        for place, host in enumerate(hosts):
            sh("ip", "netns", "add", host)
            stack.callback(sh, "ip", "netns", "del", host)
            sh("ip", "link", "add", f"{host}-out", "type", "veth", "peer", "name", "eth0", "netns", host)
            sh("ip", "link", "set", f"{host}-out", "master", BRIDGE, "up")
            sh(*inside(host, "ip", "addr", "add", f"{address(place)}/24", "dev", "eth0"))
            for device in ("lo", "eth0"):
                sh(*inside(host, "ip", "link", "set", device, "up"))
            if mbit is not None:
                shape = (
                    "root",
                    "handle",
                    "1:",
                    "tbf",
                    "rate",
                    f"{mbit:g}mbit",
                    "burst",
                    "64kb",
                    "latency",
                    "100ms",
                )
                sh(*inside(host, "tc", "qdisc", "add", "dev", "eth0", *shape))
                sh("tc", "qdisc", "add", "dev", f"{host}-out", *shape)
        yield hosts


def plug(host: str, *, connected: bool) -> None:
    """Cut a host's line, or mend it."""
    sh("ip", "link", "set", f"{host}-out", "up" if connected else "down")


def lose(host: str, share: float) -> None:
    """Drop a share of the packets that come in at a host (nftables)."""
    commands = (
        "add table inet lossy",
        "add chain inet lossy input { type filter hook input priority 0; }",
        f"add rule inet lossy input numgen random mod 1000 < {round(1000 * share)} drop",
    )
    sh(*inside(host, "nft", "; ".join(commands)))


def delay(host: str, milliseconds: float) -> bool:
    """Hold up what a host sends, where the kernel has netem; whether it has."""
    words = inside(host, "tc", "qdisc", "add", "dev", "eth0", "parent", "1:1", "handle", "10:")
    result = subprocess.run(
        [*words, "netem", "delay", f"{milliseconds:g}ms"], capture_output=True, check=False
    )
    return result.returncode == 0
