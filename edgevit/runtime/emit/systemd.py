"""systemd: a unit for the worker of each device and one for the coordinator, without rights they can spare.

Format: systemd.exec(5) and systemd.service(5), version 250 or later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgevit.errors import EdgevitError, closest
from edgevit.runtime.emit.options import EmitOptions, check_plain
from edgevit.runtime.emit.source import PLAN, Source
from edgevit.runtime.messages import COORDINATOR
from edgevit.runtime.transport import AUTHORITY, CERTIFICATE, PRIVATE, Links

_PROGRAM = "/opt/edgevit/bin/edgevit"
_WORKER, _SERVE = "edgevit-worker.service", "edgevit-serve.service"
_KEYS, _PLAN = "/etc/edgevit/keys", "/etc/edgevit/plan"
_HTTP = 8000

# What a process that talks to others and computes has no use for. Memory that is written and then run is
# left: runtimes make code for the processor they find.
_HARDENED = {
    "DynamicUser": "yes",
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectControlGroups": "yes",
    "ProtectClock": "yes",
    "ProtectHostname": "yes",
    "ProtectProc": "invisible",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX AF_NETLINK",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "LockPersonality": "yes",
    "RemoveIPC": "yes",
    "SystemCallArchitectures": "native",
    "SystemCallFilter": "@system-service",
    "UMask": "0077",
}

Section = Sequence[tuple[str, str]]


def write(source: Source, folder: Path, options: EmitOptions) -> list[str]:
    """Write a folder for each device and one for the coordinator, with the plan in it.

    Raises:
        EdgevitError: when the address of a device is missing or is none, or a name is of no device.
    """
    addresses = _checked_addresses(source, options)
    for device in source.devices:
        _write_unit(
            folder / device / _WORKER,
            f"worker {device}",
            source,
            _worker(device, addresses, options),
            options,
        )
    model = source.copy_whole(folder / COORDINATOR / "plan")
    words = _serve(source, model, addresses, options)
    _write_unit(folder / COORDINATOR / _SERVE, "coordinator", source, words, options)
    said = [
        f"bring DEVICE/{_WORKER} to /etc/systemd/system of each device, {COORDINATOR}/{_SERVE} to the "
        f"coordinator's, and {COORDINATOR}/plan to its {_PLAN}",
        f"then: systemctl enable --now {_WORKER}, and {_SERVE}",
    ]
    keys = f"bring each its keys of `edgevit keys device NAME` to {_KEYS}"
    return said if options.insecure else [keys, *said]


def _checked_addresses(source: Source, options: EmitOptions) -> Mapping[str, str]:
    names = (*source.devices, COORDINATOR)
    for name, address in options.addresses.items():
        if name not in names:
            raise EdgevitError(f"--address {name}={address}: {closest(name, names)}")
        check_plain("--address", address)
        # Written HOST:PORT, whatever it leads to: keys are the unit's business.
        Links(listen=(address,), insecure=True)
    absent = [name for name in names if name not in options.addresses]
    if absent:
        raise EdgevitError(f"--address: that of {absent[0]} is missing; give {absent[0]}=HOST:PORT")
    return options.addresses


def _worker(device: str, addresses: Mapping[str, str], options: EmitOptions) -> list[str]:
    words = ["worker", "--name", device, "--listen", addresses[device]]
    return [*words, *_secured(options), "--cache", "%C/edgevit"]


def _serve(source: Source, model: Path, addresses: Mapping[str, str], options: EmitOptions) -> list[str]:
    words = ["serve", f"{_PLAN}/{PLAN}", "--model", f"{_PLAN}/{model}", "--name", source.name]
    words += ["--http", str(options.http or _HTTP)]
    words += [] if options.grpc is None else ["--grpc", str(options.grpc)]
    words += ["--listen", addresses[COORDINATOR]]
    for device in source.devices:
        words += ["--connect", addresses[device]]
    return [*words, *_secured(options)]


def _secured(options: EmitOptions) -> list[str]:
    return ["--insecure"] if options.insecure else ["--tls", "%d"]


def _write_unit(path: Path, what: str, source: Source, words: Sequence[str], options: EmitOptions) -> None:
    service = [
        ("Type", "exec"),
        ("ExecStart", " ".join((options.program or _PROGRAM, *words))),
        ("Restart", "on-failure"),
        ("RestartSec", "2"),
        ("CacheDirectory", "edgevit"),
        *([] if options.insecure else _credentials()),
        *_HARDENED.items(),
    ]
    unit: Section = [
        ("Description", f"edgevit: {what} of {source.name}"),
        ("Wants", "network-online.target"),
        ("After", "network-online.target"),
        # A device whose network is away for an hour is wanted again after it.
        ("StartLimitIntervalSec", "0"),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    sections = [("Unit", unit), ("Service", service), ("Install", [("WantedBy", "multi-user.target")])]
    path.write_text("\n".join(_section(name, entries) for name, entries in sections), encoding="utf-8")


def _credentials() -> list[tuple[str, str]]:
    """Keys are root's alone; the service gets copies that nobody else reads."""
    return [("LoadCredential", f"{name}:{_KEYS}/{name}") for name in (AUTHORITY, CERTIFICATE, PRIVATE)]


def _section(name: str, entries: Section) -> str:
    return f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in entries)
