"""The shape of a device profile: groups of facts, each naming the source that states it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from edgevit.errors import closest
from edgevit.profiles.documents import Loc, Strict, Text, Url, fault, like
from edgevit.profiles.measured import Measurements

PROFILE_VERSION = 1

Format = Literal["onnx", "tflite", "coreml"]
FORMATS: tuple[Format, ...] = get_args(Format)

Precision = Literal["fp32", "fp16", "int8"]
Unit = Literal["cpu", "gpu", "npu", "tpu"]
RuntimeName = Literal["onnxruntime", "opencv", "litert", "tflite-runtime", "coreml"]

# Which runtimes read which format at all; a profile says which of them a device has.
READS: dict[Format, tuple[RuntimeName, ...]] = {
    "onnx": ("onnxruntime", "opencv"),
    "tflite": ("litert", "tflite-runtime"),
    "coreml": ("coreml",),
}


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


# Strict, because pydantic otherwise reads `yes` and "4" as numbers.
Count = Annotated[int, Field(gt=0, strict=True)]
Amount = Annotated[float, Field(gt=0, strict=True)]
Name = Annotated[
    str, like(r"[a-z0-9]+(-[a-z0-9]+)*", "must be lower-case words joined by hyphens, such as pixel-8")
]
VersionText = Annotated[str, like(r"\d+(\.\d+)*", 'must be a version such as "12" or "6.0"')]
Citations = Annotated[tuple[Text, ...], BeforeValidator(_as_tuple), Field(min_length=1)]


class Source(Strict):
    """Who states a fact.

    `basis` is ``datasheet`` for what the maker of the device or of the runtime publishes,
    ``measurement`` for what was measured on the device, ``assumption`` for a value chosen because
    the real one depends on the buyer.
    """

    basis: Literal["datasheet", "measurement", "assumption"]
    title: Text
    url: Url | None = None

    @model_validator(mode="after")
    def _datasheets_have_an_address(self) -> Source:
        if self.basis == "datasheet" and self.url is None:
            raise fault(("url",), "missing; a datasheet needs the address where it can be read")
        return self


class Fact(Strict):
    """A group of facts; `source` holds keys of the profile's `sources`."""

    source: Citations


class Cluster(Strict):
    """Cores of one kind. `max_mhz` is None where the maker does not publish it."""

    count: Count
    core: Text
    max_mhz: Count | None = None


class Cpu(Fact):
    """The processor, fastest cluster first; no clusters where the maker does not publish them."""

    chip: Text
    arch: Literal["arm64", "x86-64"]
    clusters: tuple[Cluster, ...] = ()


class Memory(Fact):
    """Main memory in MiB of each variant that is sold under this name."""

    sizes_mb: Annotated[tuple[Count, ...], Field(min_length=1)]


class Accelerator(Fact):
    """A unit beside the CPU.

    `tops` is the maker's peak figure in 10^12 operations per second, counted as `tops_counts` says
    where the maker says it. Makers count differently: not for comparison between them.
    """

    kind: Literal["gpu", "npu", "tpu"]
    name: Text
    tops: Amount | None = None
    tops_counts: Text | None = None


class OperatingSystem(Fact):
    """The system the profile assumes.

    `min_version`, of the distribution where there is one, is the oldest on which all that the
    profile lists under `runtimes` works.
    """

    name: Literal["linux", "android", "ios", "ipados", "macos"]
    distribution: Text | None = None
    min_version: VersionText


class Backend(Fact):
    """One way to run a model.

    `via` is what the runtime is asked for, in its own word: an execution provider, a delegate, a set
    of compute units. `precisions` are those `unit` computes in; a file in another one may load, but
    is converted or falls back to the CPU.
    """

    runtime: RuntimeName
    via: Text
    unit: Unit
    precisions: Annotated[tuple[Precision, ...], Field(min_length=1)]


class Runtimes(Strict):
    """The ways to run each format; an empty tuple where there is none."""

    onnx: tuple[Backend, ...] = ()
    tflite: tuple[Backend, ...] = ()
    coreml: tuple[Backend, ...] = ()

    @model_validator(mode="after")
    def _runtimes_read_their_format(self) -> Runtimes:
        for format_ in FORMATS:
            for place, backend in enumerate(getattr(self, format_)):
                if backend.runtime not in READS[format_]:
                    right = " or ".join(READS[format_])
                    problem = f"must be {right} for {format_} files, not {backend.runtime}"
                    raise fault((format_, place, "runtime"), problem)
        return self


class Link(Fact):
    """A way to reach the device over a network, or as a network over USB.

    `mbps` is the nominal rate of the physical layer in Mbit/s, None where only the standard is
    published. Data moves slower: measure before relying on it.
    """

    kind: Literal["ethernet", "wifi", "usb"]
    standard: Text | None = None
    mbps: Count | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Link:
        if self.standard is None and self.mbps is None:
            raise fault(("mbps",), "missing; a link needs its standard or its rate in Mbit/s")
        return self


class DeviceProfile(Strict):
    """What is known about a device.

    `memory` is None where the maker does not publish it; `measured` where nothing was measured on it.
    """

    version: Literal[1]
    name: Name
    title: Text
    aliases: tuple[Name, ...] = ()
    kind: Literal["sbc", "phone", "tablet", "accelerator-board", "mini-pc", "generic"]
    cpu: Cpu
    memory: Memory | None = None
    accelerators: tuple[Accelerator, ...] = ()
    os: OperatingSystem
    runtimes: Runtimes
    links: tuple[Link, ...] = ()
    sources: dict[str, Source]
    measured: Measurements | None = None

    @property
    def cores(self) -> int | None:
        """CPU cores of all clusters, or None where the maker does not publish them."""
        return sum(cluster.count for cluster in self.cpu.clusters) or None

    @property
    def memory_mb(self) -> int | None:
        """MiB that a plan may count on: the smallest variant's, or None where it is not published."""
        return min(self.memory.sizes_mb) if self.memory else None

    @property
    def formats(self) -> tuple[Format, ...]:
        """The formats that the device can run in some way."""
        return tuple(format_ for format_ in FORMATS if self.backends(format_))

    def backends(self, format_: str) -> tuple[Backend, ...]:
        """The ways to run files of one format, one of `FORMATS`, in the profile's order."""
        backends: tuple[Backend, ...] = getattr(self.runtimes, format_)
        return backends

    def is_estimate(self, fact: Fact) -> bool:
        """Whether a group of this profile's facts rests on anything but measurement.

        A number derived from it must then say "estimate".
        """
        return any(self.sources[key].basis != "measurement" for key in fact.source)

    @model_validator(mode="after")
    def _names_differ(self) -> DeviceProfile:
        seen = {canonical(self.name)}
        for place, alias in enumerate(self.aliases):
            if canonical(alias) in seen:
                raise fault(("aliases", place), f'"{alias}" repeats the name or another alias; remove it')
            seen.add(canonical(alias))
        return self

    @model_validator(mode="after")
    def _facts_and_sources_meet(self) -> DeviceProfile:
        unused = set(self.sources)
        for loc, fact in _facts(self, ()):
            for key in fact.source:
                if key not in self.sources:
                    raise fault((*loc, "source"), f'"{key}" is not in sources; {closest(key, self.sources)}')
            unused -= set(fact.source)
        if unused:
            raise fault(("sources", min(unused)), "no fact cites this source; cite it or remove it")
        return self

    @model_validator(mode="after")
    def _units_exist(self) -> DeviceProfile:
        units = {"cpu", *(accelerator.kind for accelerator in self.accelerators)}
        for format_ in FORMATS:
            for place, backend in enumerate(self.backends(format_)):
                if backend.unit not in units:
                    problem = f"{backend.unit} is not among the accelerators; this device has {_list(units)}"
                    raise fault(("runtimes", format_, place, "unit"), problem)
        if not self.formats:
            raise fault(("runtimes",), f"no way to run any model; give one for {_list(FORMATS)}")
        return self


def canonical(name: str) -> str:
    """A device's name without case and separators: "Pixel 8", "pixel_8" and "pixel-8" are one.

    >>> canonical("Raspberry Pi_5")
    'raspberrypi5'
    """
    return re.sub(r"[\s_-]+", "", name).casefold()


def _facts(value: object, loc: Loc) -> Iterator[tuple[Loc, Fact]]:
    if isinstance(value, Fact):
        yield loc, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _facts(getattr(value, name), (*loc, name))
    elif isinstance(value, tuple):
        for place, item in enumerate(value):
            yield from _facts(item, (*loc, place))


def _list(words: set[str] | tuple[str, ...]) -> str:
    return ", ".join(sorted(words))
