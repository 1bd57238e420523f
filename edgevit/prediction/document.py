"""What was measured of a machine, written as a device profile."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from edgevit.errors import EdgevitError
from edgevit.prediction.attribution import Run, attribute
from edgevit.prediction.checking import left_out
from edgevit.prediction.operations import RUNTIMES, Timed
from edgevit.prediction.suite import Suite
from edgevit.profiles.measured import MEASURED_VERSION
from edgevit.profiles.schema import PROFILE_VERSION

_ARCHITECTURES = {"x86_64": "x86-64", "AMD64": "x86-64", "aarch64": "arm64", "arm64": "arm64"}
# What the suite runs an artefact by, in each runtime's own word.
_VIA = {"onnxruntime": "CPUExecutionProvider", "litert": "XNNPACK"}
_SOURCE = "suite"
_NUMBERS = ("macs", "read", "written", "weights", "resident")
# A clock shows no shorter time.
_LEAST_US = 1e-3


class _Row(dict[str, Any]):
    """A mapping that is written on one line."""


class _Dumper(yaml.SafeDumper):
    """Writes rows of tables on a line each."""


_Dumper.add_representer(
    _Row,
    lambda dumper, row: dumper.represent_mapping("tag:yaml.org,2002:map", row.items(), flow_style=True),
)


def write_profile(suite: Suite, path: Path, name: str) -> None:
    """Write the device profile of a machine that was measured.

    Args:
        suite: what was measured.
        path: of the file.
        name: of the device; what no name may have is taken out.

    Raises:
        EdgevitError: when the device is of a kind that profiles do not describe.
    """
    words = re.findall(r"[a-z0-9]+", name.lower())
    document = _profile(suite, "-".join(words) or "device")
    text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
    path.write_text(text, encoding="utf-8")


def _profile(suite: Suite, name: str) -> dict[str, Any]:
    """In the order in which a person reads it."""
    machine = suite.machine
    if machine["machine"] not in _ARCHITECTURES:
        raise EdgevitError(f"{machine['machine']}: device profiles describe arm64 and x86-64 alone")
    chip = machine["processor"] or machine["machine"]
    release = re.search(r"\d+(\.\d+)*", machine["system"])
    return {
        "version": PROFILE_VERSION,
        "name": name,
        "title": machine["board"] or chip,
        "kind": "generic",
        "cpu": {
            "chip": chip,
            "arch": _ARCHITECTURES[machine["machine"]],
            "clusters": [_Row(count=machine["cores"], core=chip)],
            "source": _SOURCE,
        },
        "memory": _Row(sizes_mb=[machine["memory_mb"]], source=_SOURCE),
        "os": _Row(
            name="macos" if machine["system"].startswith("macOS") else "linux",
            min_version=release[0] if release else "0",
            source=_SOURCE,
        ),
        "runtimes": {
            name: [_backend(runtime)] for name, runtime in RUNTIMES.items() if runtime in suite.measured
        },
        "sources": {_SOURCE: _Row(basis="measurement", title="edgevit profile --suite")},
        "measured": _measured(suite),
    }


def _backend(runtime: str) -> _Row:
    return _Row(runtime=runtime, via=_VIA[runtime], unit="cpu", precisions=["fp32", "int8"], source=_SOURCE)


def _measured(suite: Suite) -> dict[str, Any]:
    found: dict[str, Any] = {"version": MEASURED_VERSION}
    if suite.partial is not None:
        found["partial"] = suite.partial
    found["memory_bytes_per_second"] = _rounded(suite.machine["bytes_per_second"])
    if suite.links:
        found["links"] = [_Row(to=to, bytes_per_second=_rounded(speed)) for to, speed in suite.links.items()]
    found["runtimes"] = [
        {
            "runtime": runtime,
            "release": suite.release(runtime),
            "threads": suite.threads,
            "models": [_model(run, predicted_us) for run, predicted_us in left_out(suite.runs(runtime))],
            "operators": [*map(_operator, attribute(suite.runs(runtime)))],
        }
        for runtime in suite.runtimes
    ]
    return found


def _model(run: Run, predicted_us: float) -> _Row:
    return _Row(
        name=run.model,
        family=run.family,
        precision=run.precision,
        us=_rounded(run.whole_us),
        predicted_us=_rounded(predicted_us),
    )


def _operator(timed: Timed) -> _Row:
    """A line of the table; what is 0 is left out."""
    numbers = {name: getattr(timed.operation, name) for name in _NUMBERS}
    return _Row(
        kind=timed.operation.kind,
        **{name: number for name, number in numbers.items() if number},
        us=_rounded(max(timed.microseconds, _LEAST_US)),
        families=sorted(timed.families),
    )


def _rounded(value: float) -> float:
    """To four digits: no clock here is better."""
    return float(f"{value:.4g}")
