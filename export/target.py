"""What a device asks of an export: formats, precision, layout and the oldest system, from its profile.

The rule is one sentence: a format is written when one of its ways to run reaches the device's best unit
(accelerator before GPU before CPU), in the precision that unit computes in. A quantized model keeps its own
precision, and counts on units that compute on integers. Everything is printed, and whatever the user says
himself stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

from edgevit.errors import EdgevitError
from edgevit.export.formats import FORMATS, ExportChoices, MinimumIos
from edgevit.profiles import Backend, DeviceProfile

# Accelerators of either name count alike.
_RANK = {"cpu": 0, "gpu": 1, "npu": 2, "tpu": 2}
_FLOATS = frozenset({"fp32", "fp16"})
_INTEGERS = frozenset({"int8"})
_APPLE = frozenset({"ios", "ipados"})


@dataclass(frozen=True)
class TargetChoice:
    """How one format is written for a device.

    Attributes:
        format: its name.
        backend: the way to run it that the choices are for.
        choices: the user's, and the device's where the user left it open.
    """

    format: str
    backend: Backend
    choices: ExportChoices

    def explain(self) -> str:
        """One line for people."""
        given = (
            f"{name.replace('_', ' ')} {value}"
            for name, value in self.choices.given().items()
            if name in FORMATS[self.format].choices
        )
        return f"{self.format}: for {self.backend.via} on the {self.backend.unit}, {', '.join(given)}"


def best_formats(device: DeviceProfile, *, quantized: bool = False) -> tuple[str, ...]:
    """The formats in which float (or quantized) models reach the best unit that any reaches."""
    best = {name: _best_backend(device, name, quantized=quantized) for name in device.formats}
    ranks = {name: _RANK[backend.unit] for name, backend in best.items() if backend is not None}
    return tuple(name for name, rank in ranks.items() if rank == max(ranks.values()))


def choose_for(
    device: DeviceProfile, formats: Sequence[str], choices: ExportChoices, *, quantized: bool = False
) -> tuple[TargetChoice, ...]:
    """How each format is written for a device.

    Args:
        device: its profile.
        formats: names of known formats.
        choices: the user's; what is None is taken from the profile.
        quantized: whether the model is.

    Raises:
        EdgevitError: when the device does not run a format, or no float model in it.
    """
    check_runs(device, formats)
    return tuple(_chosen(device, name, choices, quantized=quantized) for name in formats)


def check_runs(device: DeviceProfile, formats: Sequence[str], option: str = "--target") -> None:
    """Check that a device runs every one of the formats.

    Raises:
        EdgevitError: naming what it runs.
    """
    for name in formats:
        if name not in device.formats:
            raise EdgevitError(f"{option}: {device.title} runs {', '.join(device.formats)}, not {name}")


def _best_backend(device: DeviceProfile, name: str, *, quantized: bool) -> Backend | None:
    """The way to run models of a format on the best unit; None where it runs none.

    Where nothing computes on integers, a quantized model's integers are unpacked into floats.
    """
    backends = device.backends(name)
    able = [backend for backend in backends if quantized and _INTEGERS.intersection(backend.precisions)]
    able = able or [backend for backend in backends if _FLOATS.intersection(backend.precisions)]
    return max(able, key=lambda backend: _RANK[backend.unit], default=None)


def _chosen(device: DeviceProfile, name: str, given: ExportChoices, *, quantized: bool) -> TargetChoice:
    backend = _best_backend(device, name, quantized=quantized)
    if backend is None:
        raise EdgevitError(f"--target: {device.title} runs no float {name}; quantize the model first")
    # The floats that a quantized graph has left are as they are, but in Core ML.
    keeps_precision = quantized and name != "coreml"
    wanted = ExportChoices(precision=None if keeps_precision else _precision(backend))
    if name == "onnx":
        # No accelerator's provider takes opset 23's Attention (export/placement/tables), and the CPU, which
        # does, is no faster for it (docs/onnx.md).
        wanted = replace(wanted, opset=20)
    if name == "tflite":
        # What Android's image libraries hand over; and one transpose less.
        wanted = replace(wanted, layout="nhwc")
    if name == "coreml":
        wanted = replace(wanted, minimum_ios=_minimum_ios(device))
    return TargetChoice(name, backend, given.or_else(wanted))


def _precision(backend: Backend) -> str:
    """float16 where a unit beside the CPU computes in it: half the bytes to move."""
    if "fp32" not in backend.precisions or (backend.unit != "cpu" and "fp16" in backend.precisions):
        return "fp16"
    return "fp32"


def _minimum_ios(device: DeviceProfile) -> str:
    """The newest target that the device's system has: its operators are the most."""
    major = int(device.os.min_version.split(".")[0])
    known: tuple[str, ...] = get_args(MinimumIos)
    able = [version for version in known if device.os.name in _APPLE and int(version) <= major]
    if not able:
        raise EdgevitError(
            f"--target: {device.title} has {device.os.name} {device.os.min_version}; Core ML packages need "
            f"iOS {min(known, key=int)}"
        )
    return max(able, key=int)
