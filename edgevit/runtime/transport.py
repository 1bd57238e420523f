"""A session of the network between devices: who may be reached, with which keys, and under which names.

Threads that use a session are no daemons, so that the interpreter waits for them: one that is inside the
network's library when it ends brings the whole process down, and those that call back what was declared are
daemons where the thread was that declared it.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.errors import EdgevitError, MissingDependencyError
from edgevit.runtime.wire import LIMITS

if TYPE_CHECKING:
    import zenoh

ROOT = "edgevit"

#: Milliseconds without a sign of life after which a link counts as cut.
LEASE = 2000
# Microseconds for which a full link may take nothing before it counts as cut. Who sends does nothing else
# meanwhile, and its whole session waits with it: less than LEASE, or others believe that it has gone as well.
_BLOCKED = 1_000_000
# Bytes that the system holds for a link, which it doubles. Once they are full it takes nothing before a third
# of them is sent (Linux, sk_stream_write_space): with the megabytes that it gives by itself, a line of
# 20 Mbit/s that three links share takes longer than _BLOCKED. With these, 2 Mbit/s for each are enough.
_SEND_BUFFER = 1 << 17

# Of the network's library: handshakes that failed, and names on certificates that have no rules.
_REFUSALS = "off,zenoh_link_tls::unicast=warn,zenoh::net::routing::interceptor::access_control=info"

# A device that was away is met again soon after it is back.
_RETRY = {"period_init_ms": 200, "period_max_ms": 1000, "period_increase_factor": 2}

# Threads of the network's library. Closing a line that was cut holds one for up to 10 s
# (https://github.com/eclipse-zenoh/zenoh/issues/1101); by default there are two that receive, and with two
# such lines nothing is received from anyone.
_RUNTIME = "(rx: (worker_threads: 16), net: (worker_threads: 4), acc: (worker_threads: 4))"

#: Names of the files in a folder of keys.
AUTHORITY, CERTIFICATE, PRIVATE = "authority.pem", "certificate.pem", "private.pem"


@dataclass(frozen=True)
class Links:
    """How a session meets others.

    Attributes:
        listen: addresses at which it can be reached, HOST:PORT; none for any port of the loopback.
        connect: addresses that it reaches out to.
        tls: a device's folder of keys, as `edgevit keys device` writes it; None without encryption.
        insecure: whether addresses beyond this machine may be used without keys.
    """

    listen: tuple[str, ...] = ()
    connect: tuple[str, ...] = ()
    tls: Path | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        for option, addresses in (("--listen", self.listen), ("--connect", self.connect)):
            for address in addresses:
                host, _ = _host_and_port(option, address)
                if self.tls is None and not self.insecure and not is_loopback(host):
                    raise EdgevitError(
                        f"{option} {address}: whoever is in that network could read and send tensors; give "
                        "--tls DIR with keys of `edgevit keys`, or --insecure"
                    )
        for name in (AUTHORITY, CERTIFICATE, PRIVATE) if self.tls is not None else ():
            if self.tls is not None and not (self.tls / name).is_file():
                raise EdgevitError(f"--tls {self.tls}: has no {name}; `edgevit keys device` makes one")

    @property
    def on_this_machine(self) -> bool:
        """Whether no address leads beyond this machine."""
        return all(is_loopback(address.rpartition(":")[0]) for address in (*self.listen, *self.connect))

    def endpoints(self, addresses: Sequence[str]) -> list[str]:
        """Addresses as the network's library writes them."""
        return [f"{'tcp' if self.tls is None else 'tls'}/{address}" for address in addresses]


def _host_and_port(option: str, address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise EdgevitError(f"{option} {address}: write HOST:PORT, such as 192.168.1.10:7447")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether an address never leaves this machine.

    >>> is_loopback("127.0.0.1"), is_loopback("[::1]"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def open_session(links: Links, rules: Mapping[str, object] | None = None) -> zenoh.Session:
    """Join the network; others may come and go later.

    Args:
        links: how others are met.
        rules: of `edgevit.runtime.access`, which hold where certificates tell who speaks.

    Raises:
        EdgevitError: when an address cannot be listened at, or the keys cannot be used.
        MissingDependencyError: when eclipse-zenoh is not installed.
    """
    # Read when the library is first used.
    os.environ.setdefault("ZENOH_RUNTIME", _RUNTIME)
    try:
        import zenoh
    except ImportError as error:
        raise MissingDependencyError(
            'the network between devices needs eclipse-zenoh: run `pip install "edgevit[runtime]"`'
        ) from error
    config = zenoh.Config()
    settings = _settings(links)
    if links.tls is not None and rules is not None:
        settings["access_control"] = rules
    for key, value in settings.items():
        config.insert_json5(key, json.dumps(value))
    try:
        return zenoh.open(config)
    except zenoh.ZError as error:
        where = ", ".join(links.listen) or "the loopback"
        raise EdgevitError(f"cannot listen at {where}: {str(error).splitlines()[0]}") from error


def is_heard(publisher: zenoh.Publisher) -> bool:
    """Whether anyone takes what is sent."""
    # Its stubs call it a bool; it is an object, which is always true.
    status: Any = publisher.matching_status
    return bool(status.matching)


def log_refusals() -> None:
    """Have a line on standard output for each connection without our keys, or of another plan's device."""
    import zenoh

    # Lines of a service are read from files.
    os.environ.setdefault("NO_COLOR", "1")
    zenoh.init_log_from_env_or(_REFUSALS)


def _settings(links: Links) -> dict[str, object]:
    settings: dict[str, object] = {
        "mode": "peer",
        "listen/endpoints": links.endpoints(links.listen or ("127.0.0.1:0",)),
        "connect/endpoints": links.endpoints(links.connect),
        "connect/retry": _RETRY,
        # Devices are named, not found: a stranger's worker on the same network is not ours.
        "scouting/multicast/enabled": False,
        "transport/link/tx/lease": LEASE,
        "transport/link/tx/queue/congestion_control/block/wait_before_close": _BLOCKED,
        "transport/link/tcp/so_sndbuf": _SEND_BUFFER,
        # What is larger is no frame, and not ours.
        "transport/link/rx/max_message_size": LIMITS.bytes + (1 << 20),
        # Within one machine alone: across a network it only takes memory.
        "transport/shared_memory/enabled": links.on_this_machine,
        # Only TCP and TLS, whatever else is built in.
        "transport/link/protocols": ["tcp"] if links.tls is None else ["tls"],
    }
    if links.tls is not None:
        settings |= {
            "transport/link/tls": {
                "root_ca_certificate": str(links.tls / AUTHORITY),
                "listen_certificate": str(links.tls / CERTIFICATE),
                "listen_private_key": str(links.tls / PRIVATE),
                "connect_certificate": str(links.tls / CERTIFICATE),
                "connect_private_key": str(links.tls / PRIVATE),
                "enable_mtls": True,
                # Certificates name devices, which move between addresses.
                "verify_name_on_connect": False,
                "close_link_on_expiration": True,
                "so_sndbuf": _SEND_BUFFER,
            }
        }
    return settings


def alive_key(name: str, group: str, instance: str) -> str:
    """Of the token that says that a worker lives, and which devices it lets in."""
    return f"{ROOT}/alive/{name}/{group}/{instance}"


def coordinator_key(deployment: str) -> str:
    """Of the token that says that a coordinator lives."""
    return f"{ROOT}/coordinator/{deployment}"


def worker_key(name: str, question: str) -> str:
    """Of a question to a worker: about, admit, rejoin, assign or status."""
    return f"{ROOT}/worker/{name}/{question}"


def artefact_key(deployment: str, sha256: str) -> str:
    """Where a worker asks for the bytes of an artefact."""
    return f"{ROOT}/run/{deployment}/artefact/{sha256}"


def task_key(deployment: str, generation: int, worker: str, topic: str, sender: str) -> str:
    """Where tasks of a worker get their tensors from a sender."""
    return f"{ROOT}/run/{deployment}/{generation}/{worker}/{topic}/{sender}"


def answer_key(deployment: str, sender: str) -> str:
    """Where a coordinator gets the answers of a worker."""
    return f"{ROOT}/run/{deployment}/answer/{sender}"
