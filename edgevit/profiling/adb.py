"""LiteRT's benchmark_model on a device that adb reaches, by whose figures the profile is made."""

from __future__ import annotations

import contextlib
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevit.errors import EdgevitError, MissingDependencyError, closest
from edgevit.export.tflite.artefact import TfliteArtefact
from edgevit.files import existing_file
from edgevit.profiling.addresses import Address, Remote
from edgevit.profiling.benchmark_model import Printed, last_line, read_operators, read_timings
from edgevit.profiling.latency import LatencyProfile
from edgevit.profiling.measurements import Conditions, Placed

_FOLDER = "/data/local/tmp"
_TOOL = "benchmark_model"

_DELEGATES = {
    "xnnpack": ("--use_xnnpack=true",),
    "none": ("--use_xnnpack=false",),
    "gpu": ("--use_gpu=true",),
    "nnapi": ("--use_nnapi=true",),
}
_BUILT_IN = "built-in kernels"
_REQUESTED = {"xnnpack": "XNNPACK", "none": _BUILT_IN, "gpu": "GPU delegate", "nnapi": "NNAPI delegate"}
# What adb and a device's shell say, and what it means; the first that fits.
_MEANINGS = (
    ("unauthorized", "it does not trust this computer yet; unlock it and allow USB debugging"),
    ("offline", "it is offline; plug it in again, or `adb reconnect`"),
    ("not found", "it is not there; `adb devices` lists those that are"),
    ("No space left", "it has no room in the folder; name another with --remote-folder"),
    ("Read-only file system", "the folder is on a read-only disk; name another with --remote-folder"),
    ("closed", "the connection was lost"),
)
# One line each: name=value.
_ASK_FACTS = (
    "echo machine=$(uname -m); echo cores=$(nproc); echo board=$(getprop ro.product.manufacturer) "
    "$(getprop ro.product.model); echo processor=$(getprop ro.soc.model); "
    "echo system=Android $(getprop ro.build.version.release)"
)
_ASK_CONDITIONS = (
    "for z in /sys/class/thermal/thermal_zone*; do echo zone=$(cat $z/type)=$(cat $z/temp); done; "
    "for c in /sys/devices/system/cpu/cpu[0-9]*/cpufreq; do echo khz=$(cat $c/scaling_cur_freq); "
    "echo governor=$(cat $c/scaling_governor); done"
)


@dataclass(frozen=True)
class _Adb:
    address: Address

    def do(self, *arguments: str) -> str:
        """Run one command of adb; what it printed.

        Raises:
            EdgevitError: when it fails.
        """
        done = subprocess.run(  # noqa: S603 - a list of arguments, no shell
            ["adb", "-s", self.address.name, *arguments],  # noqa: S607 - the one of the PATH is meant
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            # An interrupt is ours, and the device is to be left clean first.
            start_new_session=True,
        )
        said = done.stdout.decode("utf-8", "replace")
        if done.returncode != 0:
            meaning = next((meaning for words, meaning in _MEANINGS if words in said), last_line(said))
            raise EdgevitError(f"{self.address}: {meaning}")
        return said

    def facts(self) -> dict[str, str]:
        """What the device says of itself."""
        lines = self.do("shell", f"{_ASK_FACTS} 2>/dev/null; true").splitlines()
        return {name: value.strip() for name, _, value in (line.partition("=") for line in lines)}

    def conditions(self) -> Conditions:
        """Its state now."""
        found: dict[str, list[str]] = {"zone": [], "khz": [], "governor": []}
        for line in self.do("shell", f"{{ {_ASK_CONDITIONS}; }} 2>/dev/null; true").splitlines():
            name, _, value = line.strip().partition("=")
            found.get(name, []).append(value)
        zones = [value.rpartition("=") for value in found["zone"]]
        temperatures = {zone: float(value) / 1e3 for zone, _, value in zones if value.lstrip("-").isdigit()}
        mhz = tuple(float(value) / 1e3 for value in found["khz"] if value.isdigit())
        governors = tuple(sorted({value for value in found["governor"] if value}))
        return Conditions(temperatures or None, mhz or None, governors or None)

    @contextlib.contextmanager
    def folder(self, parent: str) -> Iterator[str]:
        """A temporary folder on the device, which is gone when the block ends."""
        path = f"{parent}/edgevit-{secrets.token_hex(6)}"
        quoted = shlex.quote(path)
        try:
            self.do("shell", f"mkdir {quoted}")
            yield path
        finally:
            # A device that is gone keeps it: nothing reaches it to say otherwise.
            with contextlib.suppress(EdgevitError):
                self.do("shell", f"rm -rf {quoted}")


def adb_profile(path: Path, address: Address, remote: Remote, options: Mapping[str, Any]) -> LatencyProfile:
    """A TFLite file timed by benchmark_model on the device.

    Raises:
        EdgevitError: when the device, the file or an option cannot be used, or the run fails.
        MissingDependencyError: without adb.
    """
    tool = _checked_tool(path, address, remote, options)
    delegate = _delegate_of(options["delegate"])
    adb = _Adb(address)
    facts = adb.facts()
    with adb.folder(remote.folder or _FOLDER) as folder:
        adb.do("push", str(tool), f"{folder}/{_TOOL}")
        adb.do("push", str(path), f"{folder}/{path.name}")
        adb.do("shell", f"chmod 755 {shlex.quote(f'{folder}/{_TOOL}')}")
        command = _command(folder, path.name, [*_DELEGATES[delegate]], options)
        before = adb.conditions()
        printed = read_timings(adb.do("shell", command))
        after = adb.conditions()
        # In a run of its own, so that the latency is not slowed.
        profiled = adb.do("shell", f"{command} --enable_op_profiling=true") if options["operators"] else None
    table = None if profiled is None else read_operators(profiled)
    return LatencyProfile(
        artefact=str(path),
        device=str(address),
        runtime="LiteRT benchmark_model",
        requested=_REQUESTED[delegate],
        threads=printed.threads or options["threads"] or 1,
        input_shape=tuple(map(int, TfliteArtefact.open(path).stored_inputs[0].shape)),
        operators=table,
        operators_reason=None if table or profiled is None else "benchmark_model printed no operators",
        energy_reason="benchmark_model reports none",
        python=None,
        before=before,
        after=after,
        affinity=None if options["cpus"] is None else tuple(options["cpus"]),
        **_of_facts(facts),
        **_of_printed(printed),
    )


def _of_facts(facts: Mapping[str, str]) -> dict[str, Any]:
    cores = facts.get("cores", "")
    texts = {name: facts.get(name) or None for name in ("board", "processor")}
    machine, system = (facts.get(name) or "unknown" for name in ("machine", "system"))
    return {**texts, "machine": machine, "system": system, "cores": int(cores) if cores.isdigit() else 1}


def _of_printed(printed: Printed) -> dict[str, Any]:
    return {
        "delegate": printed.delegate or _BUILT_IN,
        "placed": _placed(printed),
        "reported": printed.statistics,
        "samples_ms": (),
        "load_ms": printed.load_ms,
        "first_ms": printed.first_ms,
        "warm_up_ms": (printed.warm_up_ms,),
        "peak_memory_mb": printed.peak_memory_mb,
        "working_set_mb": printed.working_set_mb,
    }


def _placed(printed: Printed) -> Placed | None:
    """By how many operators; benchmark_model does not say of which kinds."""
    if printed.delegate is None or printed.taken is None:
        return None
    taken, total = printed.taken
    units = {printed.delegate: {"operators": taken}, _BUILT_IN: {"operators": total - taken}}
    return Placed({unit: kinds for unit, kinds in units.items() if kinds["operators"]})


def _delegate_of(asked: str | None) -> str:
    delegate = asked or "xnnpack"
    if delegate not in _DELEGATES:
        raise EdgevitError(f"--delegate: benchmark_model has no {delegate}; {closest(delegate, _DELEGATES)}")
    return delegate


def _command(folder: str, file: str, flags: Sequence[str], options: Mapping[str, Any]) -> str:
    """For the device's shell; times are in seconds, and it stops by count and by time as the probe does."""
    graph = f"{folder}/{file}"
    words = [
        *(() if options["cpus"] is None else ("taskset", f"{sum(1 << cpu for cpu in options['cpus']):x}")),
        f"{folder}/{_TOOL}",
        f"--graph={graph}",
        f"--warmup_runs={options['warm_up_runs']}",
        f"--warmup_min_secs={options['warm_up_seconds']}",
        f"--num_runs={options['runs']}",
        f"--min_secs={options['seconds']}",
        "--report_peak_memory_footprint=true",
        *(() if options["threads"] is None else (f"--num_threads={options['threads']}",)),
        *flags,
    ]
    return f"{shlex.join(words)} 2>&1"


def _checked_tool(path: Path, address: Address, remote: Remote, options: Mapping[str, Any]) -> Path:
    if path.suffix != ".tflite":
        raise EdgevitError(
            f"--device {address}: adb runs LiteRT's benchmark_model, and {path.name} is no TFLite file"
        )
    if options["sustained_seconds"]:
        raise EdgevitError(
            "--sustained: benchmark_model prints no single runs, so that minutes of it show no change"
        )
    if remote.benchmark_model is None:
        raise EdgevitError(
            f"--device {address}: pass --benchmark-model FILE, LiteRT's benchmark_model built for the device"
        )
    if shutil.which("adb") is None:
        raise MissingDependencyError(
            f"--device {address}: this machine has no adb; install Android's platform tools "
            "(Debian: `sudo apt-get install adb`)"
        )
    return existing_file(remote.benchmark_model, "--benchmark-model")
