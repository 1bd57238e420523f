"""What a device says of itself: machine, memory, temperature, clock and energy, where it can be read."""

from __future__ import annotations

import os
import platform
import resource
import time
from pathlib import Path
from typing import Any

SYS = Path("/sys")

# Bytes, several times a large cache and still little for a small device; and how often.
_COPIED, _COPIES = 1 << 26, 8


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MB (10^6 bytes)."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux its peak starts from the parent's memory at the fork.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    # Bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def machine() -> dict[str, Any]:
    """What the measurement runs on."""
    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count() or 1,
        "board": _text(Path("/proc/device-tree/model")),
        "processor": _processor(),
        "memory_mb": _memory_mb(),
    }


def _memory_mb() -> int:
    """Main memory in MiB."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20


def _processor() -> str | None:
    names = ("model name", "Model", "Hardware")
    for line in (_text(Path("/proc/cpuinfo")) or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in names:
            return value.strip()
    return None


def memory_bandwidth() -> float:
    """Bytes in a second that one core reads and writes, in large copies; the best of several."""
    import numpy as np

    source = np.ones(_COPIED, dtype=np.uint8)
    target = np.zeros_like(source)
    best = float("inf")
    for _ in range(_COPIES):
        started = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - started)
    return 2 * _COPIED / best


def conditions(root: Path = SYS) -> dict[str, Any]:
    """Degrees Celsius by thermal zone, MHz of each core and the governors; None where not readable."""
    return {
        "temperatures_c": _temperatures(root) or None,
        "mhz": [khz / 1e3 for khz in _of_cores(root, "scaling_cur_freq", _number) if khz] or None,
        "governors": sorted({name for name in _of_cores(root, "scaling_governor", _text) if name}) or None,
    }


def _temperatures(root: Path) -> dict[str, float]:
    found = {}
    for zone in sorted(root.glob("class/thermal/thermal_zone*")):
        value = _number(zone / "temp")
        if value is not None:
            name = _text(zone / "type") or zone.name
            # Several zones may be of one type.
            found[f"{name} ({zone.name})" if name in found else name] = value / 1e3
    return found


def _of_cores(root: Path, name: str, read: Any) -> list[Any]:
    cores = root.glob("devices/system/cpu/cpu[0-9]*")
    return [read(core / "cpufreq" / name) for core in sorted(cores, key=lambda core: int(core.name[3:]))]


class Energy:
    """Energy from its construction to the last `read`, of counters (RAPL) or else of a battery."""

    def __init__(self, root: Path = SYS) -> None:
        self._counters = [Counter(zone) for zone in sorted(root.glob("class/powercap/intel-rapl:?"))]
        self._supplies = sorted(root.glob("class/power_supply/*"))
        self._watts: list[float] = []
        self._started = time.perf_counter()
        self._seconds = 0.0
        self.read()

    def read(self) -> None:
        """Look at the counters and the battery; a counter that is never looked at runs over unseen."""
        self._seconds = time.perf_counter() - self._started
        for counter in self._counters:
            counter.read()
        if not self._counters:
            self._watts += [watts for supply in self._supplies for watts in [battery_watts(supply)] if watts]

    def result(self) -> dict[str, Any]:
        """Joules, where they come from and how long they took; or why there are none."""
        readable = [counter for counter in self._counters if counter.last is not None]
        if readable:
            names = ", ".join(counter.name for counter in readable)
            joules = sum(counter.joules for counter in readable)
            return {"joules": joules, "seconds": self._seconds, "source": "RAPL: " + names}
        if self._counters:
            return {"reason": f"{self._counters[0].file} can be read by root alone"}
        if self._watts:
            joules = sum(self._watts) / len(self._watts) * self._seconds
            source = f"battery, mean of {len(self._watts)} readings of its current"
            return {"joules": joules, "seconds": self._seconds, "source": source}
        return {"reason": "the system has no energy counter and no battery that is being discharged"}


class Counter:
    """One energy counter of powercap, in microjoules; it starts again from 0 at its end."""

    def __init__(self, zone: Path) -> None:
        self.file = zone / "energy_uj"
        self.name = _text(zone / "name") or zone.name
        self._range = _number(zone / "max_energy_range_uj") or 0.0
        self.last: float | None = None
        self.joules = 0.0

    def read(self) -> None:
        """Add what was spent since the last time."""
        value = _number(self.file)
        if value is None:
            return
        if self.last is not None:
            spent = value - self.last
            self.joules += (spent if spent >= 0 else spent + self._range) / 1e6
        self.last = value


def battery_watts(supply: Path) -> float | None:
    """Power that a battery gives now; None where it gives none, or does not say."""
    if _text(supply / "type") != "Battery" or _text(supply / "status") != "Discharging":
        return None
    power = _number(supply / "power_now")
    if power is not None:
        return abs(power) / 1e6
    current, voltage = _number(supply / "current_now"), _number(supply / "voltage_now")
    return None if current is None or voltage is None else abs(current * voltage) / 1e12


def _text(path: Path) -> str | None:
    # Not every file of sysfs that is there can be read.
    try:
        return path.read_text(errors="replace").strip("\0\n ") or None
    except OSError:
        return None


def _number(path: Path) -> float | None:
    try:
        return float(_text(path) or "")
    except ValueError:
        return None
