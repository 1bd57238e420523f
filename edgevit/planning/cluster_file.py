"""What a cluster file says: devices, networks, roles; versioned, and every key is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgevit.profiles.documents import Document, Located, Strict, Text, fault, read_located
from edgevit.profiles.schema import Format

_DOCUMENT = Document(noun="cluster file", version=1, example="devices:", depth=4)

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Index = Annotated[int, Field(ge=0)]
Precision = Literal["fp32", "fp16"]


class NetworkEntry(Strict):
    """A network; one that is shared carries one transfer at the cost of another, as a radio channel does.

    Attributes:
        name: what it is called.
        bytes_per_second: of each device's line; of all transfers together where it is shared.
        latency_seconds: that each end adds to a transfer.
        shared: whether all devices share it.
    """

    name: Text
    bytes_per_second: Positive
    latency_seconds: Amount = 0.0
    shared: bool = False


class DeviceEntry(Strict):
    """A device, or several that are alike.

    Attributes:
        name: what it is called; of several, NAME-1, NAME-2 and so on.
        count: how many.
        profile: a device that edgevit knows, or a profile's file: memory, link and formats are read there
            where they are not given here.
        macs_per_second: multiply-accumulates in a second, for what was not measured.
        memory_bytes: what the model may take.
        watts: that it takes while it computes.
        joules_per_mac: instead of `watts`.
        joules_per_byte: sent or received.
        network: that it is on.
        bytes_per_second: of its line, where it is slower than the network.
        latency_seconds: that it adds to a transfer, instead of the network's.
        conversion_bytes_per_second: of floats that are narrowed for the wire, or widened again.
        format: of the artefact that it runs.
        precision: likewise.
    """

    name: Text
    count: Annotated[int, Field(ge=1)] = 1
    profile: Text | None = None
    macs_per_second: Positive | None = None
    memory_bytes: Amount | None = None
    watts: Positive | None = None
    joules_per_mac: Positive | None = None
    joules_per_byte: Amount = 0.0
    network: Text | None = None
    bytes_per_second: Positive | None = None
    latency_seconds: Amount | None = None
    conversion_bytes_per_second: Positive | None = None
    format: Format | None = None
    precision: Precision = "fp32"

    @model_validator(mode="after")
    def _one_energy(self) -> DeviceEntry:
        if self.watts is not None and self.joules_per_mac is not None:
            raise fault(("joules_per_mac",), "watts are given already; keep one of the two")
        return self


class PinEntry(Strict):
    """Segments that may not leave a device.

    Attributes:
        device: its name.
        first: the number of the first segment, from 0.
        last: of the last.
    """

    device: Text
    first: Index
    last: Index


class RolesEntry(Strict):
    """Devices with a role of their own.

    Attributes:
        input: the device that has the images; without one, bringing them to any device costs nothing.
        answer: the device that wants the answers; likewise.
        pinned: segments that may not leave a device.
    """

    input: Text | None = None
    answer: Text | None = None
    pinned: tuple[PinEntry, ...] = ()


class ClusterFile(Strict):
    """A cluster file as it is written."""

    version: Literal[1]
    networks: tuple[NetworkEntry, ...] = ()
    devices: Annotated[tuple[DeviceEntry, ...], Field(min_length=1)]
    roles: RolesEntry = RolesEntry()


def read_cluster_file(path: Path) -> Located[ClusterFile]:
    """Read a file, and no more than it says.

    Raises:
        EdgevitError: naming the file, the line and the key of the first thing that is wrong.
    """
    return read_located(path, ClusterFile, _DOCUMENT)
