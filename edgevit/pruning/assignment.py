"""Which sub-model runs on which device: the smallest largest latency that memory and energy allow.

A device runs its sub-models one after another: its latency is the sum of their multiply-accumulates over its
speed, and the slowest device decides. ED-ViT (arXiv 2410.11650) places greedily, largest first; here that is
the baseline and the placement is exact.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from edgevit.errors import EdgevitError
from edgevit.profiles.documents import Document, Strict, Text, read_document

# Time and memory grow threefold with each sub-model: so many take seconds.
MOST_MODELS = 14

_DOCUMENT = Document(noun="devices file", version=1, example="devices:", depth=3)

Costs = npt.NDArray[np.float64]
Masks = npt.NDArray[np.int_]


@dataclass(frozen=True)
class Load:
    """A sub-model as its device feels it.

    Attributes:
        name: what it is called; no two of one assignment are called the same.
        macs: multiply-accumulates for one image.
        bytes: memory that it takes.
    """

    name: str
    macs: int
    bytes: int

    def __post_init__(self) -> None:
        if self.macs < 0 or self.bytes < 0:
            raise EdgevitError(f"sub-model {self.name}: macs and bytes must be at least 0")


@dataclass(frozen=True)
class Device:
    """What a device can do.

    Attributes:
        name: what it is called; no two of one assignment are called the same.
        macs_per_second: multiply-accumulates in a second, best measured with one sub-model.
        memory_bytes: what its sub-models may take together.
        energy_macs: multiply-accumulates that it may do for one image; None for as many as there are.
        latency_seconds: how long it may take for one image; None for as long as it takes.
    """

    name: str
    macs_per_second: float
    memory_bytes: int
    energy_macs: int | None = None
    latency_seconds: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.macs_per_second < math.inf:
            raise EdgevitError(f"device {self.name}: macs_per_second must be above 0 and finite")
        if self.memory_bytes < 0 or (self.energy_macs or 0) < 0:
            raise EdgevitError(f"device {self.name}: memory_bytes and energy_macs must be at least 0")
        if self.latency_seconds is not None and not 0 < self.latency_seconds < math.inf:
            raise EdgevitError(f"device {self.name}: latency_seconds must be above 0 and finite")

    @property
    def macs_limit(self) -> tuple[int, str] | None:
        """Multiply-accumulates that it may do for one image, and which budget says so; None without one."""
        limits = []
        if self.energy_macs is not None:
            limits.append((self.energy_macs, "energy_macs"))
        if self.latency_seconds is not None:
            limits.append((int(self.latency_seconds * self.macs_per_second), "latency_seconds"))
        return min(limits, default=None)


@dataclass(frozen=True)
class Assignment:
    """Sub-models on devices.

    Attributes:
        device_of: sub-model to device, by name, in the order of the sub-models.
        seconds: device to its latency for one image, 0 where it has nothing to do.
    """

    device_of: Mapping[str, str]
    seconds: Mapping[str, float]

    @property
    def latency(self) -> float:
        """Seconds of the slowest device."""
        return max(self.seconds.values())

    def on(self, device: str) -> tuple[str, ...]:
        """The sub-models of a device."""
        return tuple(model for model, place in self.device_of.items() if place == device)


def assign(models: Sequence[Load], devices: Sequence[Device]) -> Assignment:
    """The assignment whose slowest device is fastest, exactly.

    Dynamic programming over sets of sub-models: the best of the first k devices for a set is the best split
    into what device k takes and what those before it do. That is 3^models splits a device, whatever the
    numbers: ten sub-models on ten devices take a fraction of a second.

    Args:
        models: at most `MOST_MODELS`.
        devices: any number; some may be left without work.

    Raises:
        EdgevitError: when the budgets cannot be met, saying which and by how much at the least; when there
            are no models or no devices, too many models, or two of one name.
    """
    _check(models, devices)
    if len(models) > MOST_MODELS:
        raise EdgevitError(f"models: {len(models)} are given; at most {MOST_MODELS} can be placed exactly")
    sets = _Sets.of(models)
    seconds = np.stack([_where(sets.fit(device), sets.macs / device.macs_per_second) for device in devices])
    latency, chosen = _best_split(seconds, np.maximum)
    if np.isinf(latency):
        raise EdgevitError(_unmet(sets, models, devices))
    return _assignment(models, devices, chosen)


def greedy(models: Sequence[Load], devices: Sequence[Device]) -> Assignment | None:
    """The published baseline: the largest sub-model first, each where it would be done first.

    Returns:
        None where it finds no room for a sub-model, be there an assignment or not.

    Raises:
        EdgevitError: when there are no models or no devices, or two of one name.
    """
    _check(models, devices)
    taken: dict[str, list[Load]] = {device.name: [] for device in devices}
    chosen = [0] * len(models)
    for place in sorted(range(len(models)), key=lambda place: -models[place].macs):
        open_to = [device for device in devices if _fits([*taken[device.name], models[place]], device)]
        if not open_to:
            return None
        first = min(open_to, key=lambda device: _seconds([*taken[device.name], models[place]], device))
        taken[first.name].append(models[place])
        chosen[place] = devices.index(first)
    return _assignment(models, devices, chosen)


class _DeviceEntry(Strict):
    name: Text
    macs_per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    memory_bytes: Annotated[int, Field(ge=0)]
    energy_macs: Annotated[int, Field(ge=0)] | None = None
    latency_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class _DevicesFile(Strict):
    version: Literal[1]
    devices: Annotated[tuple[_DeviceEntry, ...], Field(min_length=1)]


def read_devices(path: str | Path) -> tuple[Device, ...]:
    """Read the devices of a network from a YAML file.

    Given::

        version: 1
        devices:
          - name: pi-1
            macs_per_second: 2.0e+9
            memory_bytes: 4000000
            energy_macs: 300000000  # may be left out
            latency_seconds: 0.05   # likewise

    Raises:
        EdgevitError: naming the file, the line and the key of the first thing that is wrong.
    """
    entries = read_document(Path(path), _DevicesFile, _DOCUMENT).devices
    devices = tuple(Device(**entry.model_dump()) for entry in entries)
    _check_names([device.name for device in devices], f"{path}: device")
    return devices


@dataclass(frozen=True)
class _Sets:
    """Every set of sub-models, as a number whose bit i says whether sub-model i is in it.

    Attributes:
        macs: of all in each set together, (2^models,) float64; exact up to 2^53.
        bytes: likewise.
    """

    macs: Costs
    bytes: Costs

    @classmethod
    def of(cls, models: Sequence[Load]) -> _Sets:
        members = np.arange(2 ** len(models))[:, None] >> np.arange(len(models)) & 1
        return cls(
            macs=members @ np.array([float(model.macs) for model in models]),
            bytes=members @ np.array([float(model.bytes) for model in models]),
        )

    def too_many_bytes(self, device: Device) -> Costs:
        """By how much each set exceeds the device's memory, 0 where it fits."""
        return np.maximum(self.bytes - device.memory_bytes, 0.0)

    def too_many_macs(self, device: Device) -> Costs:
        """By how much each set exceeds what the device may do, 0 where it fits."""
        return np.maximum(self.macs - (np.inf if device.macs_limit is None else device.macs_limit[0]), 0.0)

    def fit(self, device: Device) -> npt.NDArray[np.bool_]:
        """Whether each set fits the device."""
        fits: npt.NDArray[np.bool_] = (self.too_many_bytes(device) == 0) & (self.too_many_macs(device) == 0)
        return fits


def _where(allowed: npt.NDArray[np.bool_], costs: Costs) -> Costs:
    """The costs of what is allowed; the rest costs infinitely much."""
    return np.where(allowed, costs, np.inf)


def _best_split(costs: Costs, combine: Callable[[Costs, Costs], Costs]) -> tuple[float, list[int]]:
    """The cheapest way to divide all sub-models among the devices.

    Args:
        costs: (devices, 2^models), of each set on each device.
        combine: `np.maximum` or `np.add`: what several devices cost together.

    Returns:
        The cost, infinite where there is no way, and the device of each sub-model.
    """
    everything = costs.shape[1] - 1
    apart = _disjoint(costs.shape[1])
    best = np.where(np.arange(everything + 1) == 0, 0.0, np.inf)
    taken: list[Masks] = []
    for own in costs:
        found, mine = np.full_like(best, np.inf), np.zeros(len(best), dtype=int)
        for group in np.flatnonzero(np.isfinite(own)):
            others = apart[group]
            total = combine(best[others], own[group])
            better = total < found[others | group]
            found[others[better] | group], mine[others[better] | group] = total[better], group
        best = found
        taken.append(mine)
    return float(best[everything]), _traced(taken, everything)


def _disjoint(count: int) -> list[Masks]:
    """For each set, all that share nothing with it."""
    masks = np.arange(count)
    return [np.flatnonzero(masks & group == 0) for group in masks]


def _traced(taken: Sequence[Masks], everything: int) -> list[int]:
    """The device of each sub-model, from what each device takes of a set."""
    chosen = [0] * everything.bit_length()
    left = everything
    for device, mine in reversed(list(enumerate(taken))):
        group = int(mine[left])
        for model in range(len(chosen)):
            if group >> model & 1:
                chosen[model] = device
        left ^= group
    return chosen


def _unmet(sets: _Sets, models: Sequence[Load], devices: Sequence[Device]) -> str:
    """Which budget cannot be met, and by how much at the least."""
    too_many_bytes = np.stack([sets.too_many_bytes(device) for device in devices])
    lacking, chosen = _best_split(too_many_bytes, np.add)
    if lacking > 0:
        name, worst = _most_exceeded(
            models, devices, chosen, lambda m: m.bytes, lambda d: (d.memory_bytes, "memory_bytes")
        )
        return (
            f"{name}: however the {len(models)} sub-models are placed, {lacking:,.0f} bytes are "
            f"lacking at the least ({worst}); prune them further, or add a device"
        )
    too_many_macs = np.stack([sets.too_many_macs(device) for device in devices])
    lacking, chosen = _best_split(_where(too_many_bytes == 0, too_many_macs), np.add)
    name, worst = _most_exceeded(models, devices, chosen, lambda m: m.macs, lambda d: d.macs_limit)
    return (
        f"{name}: however the {len(models)} sub-models are placed within memory, {lacking:,.0f} "
        f"multiply-accumulates are too many at the least ({worst}); prune them further, or add a device"
    )


def _most_exceeded(
    models: Sequence[Load],
    devices: Sequence[Device],
    chosen: Sequence[int],
    need: Callable[[Load], int],
    budget: Callable[[Device], tuple[int, str] | None],
) -> tuple[str, str]:
    """The budget that is exceeded by most: its name, and on which device, what it has and would need."""
    needs = [
        sum(need(m) for m, at in zip(models, chosen, strict=True) if at == i) for i in range(len(devices))
    ]
    budgets = [(device.name, needed, budget(device)) for device, needed in zip(devices, needs, strict=True)]
    limited = [(name, needed, *limit) for name, needed, limit in budgets if limit is not None]
    device, needed, has, name = max(limited, key=lambda entry: entry[1] - entry[2])
    return name, f"{device} would need {needed:,} and has {has:,}"


def _assignment(models: Sequence[Load], devices: Sequence[Device], chosen: Sequence[int]) -> Assignment:
    placed = list(zip(models, chosen, strict=True))
    return Assignment(
        device_of={model.name: devices[place].name for model, place in placed},
        seconds={
            device.name: _seconds([model for model, place in placed if place == index], device)
            for index, device in enumerate(devices)
        },
    )


def _seconds(models: Sequence[Load], device: Device) -> float:
    return sum(model.macs for model in models) / device.macs_per_second


def _fits(models: Sequence[Load], device: Device) -> bool:
    macs = sum(model.macs for model in models)
    fits = device.macs_limit is None or macs <= device.macs_limit[0]
    return fits and sum(model.bytes for model in models) <= device.memory_bytes


def _check(models: Sequence[Load], devices: Sequence[Device]) -> None:
    if not models or not devices:
        raise EdgevitError(f"{'devices' if models else 'models'}: there are none; one at least is needed")
    _check_names([model.name for model in models], "sub-model")
    _check_names([device.name for device in devices], "device")


def _check_names(names: Sequence[str], what: str) -> None:
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise EdgevitError(f"{what} {name}: {count} are called so; give each a name of its own")
