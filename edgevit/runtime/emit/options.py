"""What must be said about a place where a plan is to run, beside the plan."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgevit.errors import EdgevitError
from edgevit.runtime.messages import check_name

# Options that a target needs, and those that it knows besides.
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "kserve": ("image", "storage"),
    "triton": (),
    "compose": ("image",),
    "systemd": ("addresses",),
}
_KNOWN: Mapping[str, tuple[str, ...]] = {
    "kserve": (),
    "triton": (),
    "compose": ("http", "grpc", "insecure"),
    "systemd": ("http", "grpc", "insecure", "program"),
}
_WORDS = {
    "image": ("--image", "a container image that has edgevit[runtime,onnx]"),
    "storage": (
        "--storage",
        "where the folder `models` will be, such as pvc://models/digits or s3://bucket/digits",
    ),
    "addresses": ("--address", "where each device can be reached, such as board-1=192.168.1.11:7447"),
    "http": ("--http", ""),
    "grpc": ("--grpc", ""),
    "insecure": ("--insecure", ""),
    "program": ("--program", ""),
}
# What the file formats written here have no need to quote.
_PLAIN = re.compile(r"[A-Za-z0-9._:/@+\[\]-]+")


@dataclass(frozen=True)
class EmitOptions:
    """What is said about a place.

    Attributes:
        model: the model that was planned, where it lies elsewhere than the plan says.
        name: of the service; None for the model's.
        image: container image with edgevit in it.
        storage: address of the folder `models`, once it was brought there.
        addresses: HOST:PORT of each device, and of "coordinator".
        program: absolute path of the command on devices; None for /opt/edgevit/bin/edgevit.
        http: port of clients; None for 8000.
        grpc: likewise over gRPC; None for none.
        insecure: whether devices talk without keys.
        force: whether files that are there are replaced.
    """

    model: Path | None = None
    name: str | None = None
    image: str | None = None
    storage: str | None = None
    addresses: Mapping[str, str] = field(default_factory=dict)
    program: str | None = None
    http: int | None = None
    grpc: int | None = None
    insecure: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        if self.name is not None:
            check_name(self.name, "--name")
        for option, value in (
            ("--image", self.image),
            ("--storage", self.storage),
            ("--program", self.program),
        ):
            if value is not None:
                check_plain(option, value)
        if self.program is not None and not self.program.startswith("/"):
            raise EdgevitError(f"--program {self.program}: systemd needs an absolute path")
        for option, port in (("--http", self.http), ("--grpc", self.grpc)):
            if port is not None and not 0 < port < 65536:
                raise EdgevitError(f"{option} {port}: a port is 1 to 65535")


def check_plain(option: str, value: str) -> None:
    """Refuse what would have to be quoted in one of the formats that are written.

    Raises:
        EdgevitError: naming the option.
    """
    if not _PLAIN.fullmatch(value):
        raise EdgevitError(f"{option} {value!r}: use letters, digits and . _ : / @ + - [ ] alone")


def check_options(target: str, options: EmitOptions) -> None:
    """Refuse options that a target lacks, or that say nothing to it.

    Raises:
        EdgevitError: naming the option.
    """
    for name in _NEEDED[target]:
        if not getattr(options, name):
            option, words = _WORDS[name]
            raise EdgevitError(f"--for {target} needs {option}: {words}")
    for name, (option, _) in _WORDS.items():
        if getattr(options, name) and name not in {*_NEEDED[target], *_KNOWN[target]}:
            users = [each for each in _NEEDED if name in {*_NEEDED[each], *_KNOWN[each]}]
            raise EdgevitError(f"{option} says nothing to {target}; it is for {' and '.join(users)}")
