"""What a coordinator and its workers tell one another beside tensors: JSON, read strictly.

Workers have no pydantic, so each message is a frozen dataclass that checks itself.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from edgevit.errors import EdgevitError

_MOST_BYTES = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
# No slash, star or dollar: a name is one chunk of a key, and cannot leave it.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

#: What runs an artefact of each format.
FORMATS = ("onnx", "tflite")

#: The name under which whoever runs plans sends, and that is on its certificate.
COORDINATOR = "coordinator"

Message = TypeVar(
    "Message", bound="Announcement | Admission | Assignment | Artefact | Task | Status | TaskStatus"
)


class MessageError(EdgevitError):
    """A message that is not one, or asks for what is not allowed."""


def check_name(name: str, what: str) -> str:
    """A name that can be one chunk of a key.

    Raises:
        MessageError: when it cannot.
    """
    if not _NAME.fullmatch(name):
        raise MessageError(f"{what} {name[:80]!r}: use letters, digits, dots, dashes, at most 64")
    return name


def check_device(name: str, what: str) -> str:
    """A name that a device can have.

    Raises:
        MessageError: when it cannot be a chunk of a key, or is the coordinator's.
    """
    if name == COORDINATOR:
        raise MessageError(f"{what} {name!r}: is the name of whoever runs plans; give the device another")
    return check_name(name, what)


@dataclass(frozen=True)
class Announcement:
    """A worker about itself.

    Attributes:
        name: what it is called.
        instance: another one every time it starts.
        session: what the network's library calls it there.
        formats: of the artefacts that it runs.
        runtime: what runs them, with versions.
        memory_bytes: of the device.
        profile: SHA-256 of the device profile it was started with; empty without one.
    """

    name: str
    instance: str
    session: str
    formats: tuple[str, ...]
    runtime: str
    memory_bytes: int
    profile: str = ""

    def __post_init__(self) -> None:
        check_name(self.name, "worker")
        check_name(self.instance, "instance")


@dataclass(frozen=True)
class Admission:
    """Whom a worker is to exchange tensors with, and nobody else.

    Attributes:
        devices: names of all devices of a plan file.
    """

    devices: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.devices:
            raise MessageError("admission: must have devices")
        for name in self.devices:
            check_device(name, "device")


@dataclass(frozen=True)
class Artefact:
    """A file that a worker runs.

    Attributes:
        sha256: of what it holds.
        format: a member of `FORMATS`.
        bytes: that it has.
    """

    sha256: str
    format: str
    bytes: int

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256):
            raise MessageError(f"artefact {self.sha256[:80]!r}: is no SHA-256")
        if self.format not in FORMATS:
            raise MessageError(f"artefact of format {self.format[:40]!r}; known: {', '.join(FORMATS)}")
        if self.bytes < 1:
            raise MessageError("artefact: its size must be above 0")


@dataclass(frozen=True)
class Task:
    """A stage, or a part, that a worker runs.

    Attributes:
        key: what it is called among those of its worker.
        topic: chunk of the key under which it gets its tensors; tasks of one topic get the same.
        sender: of whom alone it takes them: a worker, or the coordinator.
        lane: that its answers are marked with.
        artefact: that it runs.
        takes: names of tensors, in the order of the artefact's inputs.
        gives: names of what it makes, in the order of its outputs.
        sends: names of the tensors that are sent on, made here or passed on.
        halved: whether floats are sent as float16.
        to: worker and topic of whoever takes them; two empty strings for the coordinator.
    """

    key: str
    topic: str
    sender: str
    lane: int
    artefact: Artefact
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    sends: tuple[str, ...]
    halved: bool
    to: tuple[str, str]

    def __post_init__(self) -> None:
        check_name(self.key, "task")
        check_name(self.topic, "topic")
        check_name(self.sender, "sender")
        if not 0 <= self.lane < 2**16:
            raise MessageError(f"task {self.key}: lane {self.lane} is not below 65536")
        if not self.takes or not self.sends:
            raise MessageError(f"task {self.key}: takes or sends nothing")
        if len(self.to) != 2:
            raise MessageError(f"task {self.key}: to must have a worker and a topic")
        if any(self.to):
            check_name(self.to[0], "worker")
            check_name(self.to[1], "topic")


@dataclass(frozen=True)
class Assignment:
    """All that a worker is to do from now on.

    Attributes:
        deployment: for whom.
        generation: of the deployment: the higher one counts.
        capacity: requests that may wait before each task.
        tasks: what it runs; none when it is to rest.
        keep: artefacts that it may need soon.
    """

    deployment: str
    generation: int
    capacity: int
    tasks: tuple[Task, ...] = ()
    keep: tuple[Artefact, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.deployment, "deployment")
        if not 1 <= self.capacity <= 65536:
            raise MessageError(f"capacity {self.capacity}: 1 to 65536 are possible")
        keys = [task.key for task in self.tasks]
        if len(set(keys)) != len(keys):
            raise MessageError("two tasks have one key")


@dataclass(frozen=True)
class TaskStatus:
    """What a task has done.

    Attributes:
        key: of the task.
        ready: whether whoever takes what it sends can be reached.
        runs: requests that it ran.
        seconds: of computing, in all.
        p50: seconds of computing, the median of the last runs.
        waited: seconds that requests spent in its queue, in all.
        received: bytes.
        sent: bytes.
        refused: frames that were altered, late, foreign, or one too many.
        held: requests that wait or are being run, in hexadecimal digits.
    """

    key: str
    ready: bool
    runs: int
    seconds: float
    p50: float
    waited: float
    received: int
    sent: int
    refused: int
    held: tuple[str, ...]


@dataclass(frozen=True)
class Status:
    """What a worker has done for an assignment.

    Attributes:
        deployment: for whom.
        generation: of the assignment.
        tasks: what each has done.
        links: sessions that it is linked to.
    """

    deployment: str
    generation: int
    tasks: tuple[TaskStatus, ...]
    links: tuple[str, ...]


def write(message: Announcement | Admission | Assignment | Status) -> bytes:
    """A message as JSON."""
    return json.dumps(dataclasses.asdict(message)).encode("utf-8")


def read(cls: type[Message], data: bytes) -> Message:
    """A message from JSON.

    Raises:
        MessageError: when it is none, or has an unknown key or a wrong value.
    """
    if len(data) > _MOST_BYTES:
        raise MessageError(f"a message of {len(data)} bytes is longer than {_MOST_BYTES}")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MessageError("a message is no JSON") from error
    return _message(cls, value)


def _message(cls: type[Message], value: object) -> Message:
    if not isinstance(value, Mapping):
        raise MessageError(f"{cls.__name__}: must be an object")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = value.keys() - fields.keys()
    needed = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    if unknown or not needed <= value.keys():
        raise MessageError(f"{cls.__name__}: has other keys than {', '.join(fields)}")
    found = {name: _value(cls, name, str(fields[name].type), each) for name, each in value.items()}
    return cls(**found)


_SCALARS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}


def _value(cls: type[Any], name: str, kind: str, value: object) -> Any:
    """A value of a type that is written as in the classes above."""
    if kind in _SCALARS:
        if not isinstance(value, _SCALARS[kind]) or (isinstance(value, bool) and kind != "bool"):
            raise MessageError(f"{cls.__name__}: {name} must be of type {kind}")
        return value
    if kind.startswith("tuple["):
        if not isinstance(value, list):
            raise MessageError(f"{cls.__name__}: {name} must be a list")
        inner = kind.removeprefix("tuple[").removesuffix("]").split(", ")[0]
        return tuple(_value(cls, name, inner, each) for each in value)
    return _message(_NESTED[kind], value)


_NESTED: dict[str, type[Any]] = {"Artefact": Artefact, "Task": Task, "TaskStatus": TaskStatus}
