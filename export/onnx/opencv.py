"""Whether OpenCV's dnn module runs an ONNX file, found out by running it."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgevit.export.onnx import opencv_probe
from edgevit.export.onnx.artefact import OnnxArtefact
from edgevit.export.onnx.contest import noise_like

Array = npt.NDArray[np.float32]

# Seconds for one image; a run that needs more hangs.
_PATIENCE = 300
# Beyond what two runtimes' rounding explains, in float16 too.
_ANOTHER_RESULT = 1e-2
# OpenCV names the operator it stumbles over as [Type@domain]; its errors hold one another, each with a place
# in its source and a function's name.
_OPERATOR = re.compile(r"\[([A-Za-z]\w*)(?:@[\w.]+)?\]")
_PLACE = re.compile(r"OpenCV\([\d.]+\) \S+: error: \([^)]*\) ")
_IN_FUNCTION = re.compile(r"in function '[^']*'")


@dataclass(frozen=True)
class OpenCvVerdict:
    """What OpenCV's dnn makes of a file.

    Attributes:
        version: of OpenCV; empty where it did not come to say it.
        difference: largest difference from ONNX Runtime's outputs over their largest value; None where
            it could not run the file.
        refusal: why it could not; None where it could.
    """

    version: str
    difference: float | None
    refusal: str | None

    def __str__(self) -> str:
        """One line for people."""
        if self.refusal is not None:
            return f"OpenCV {self.version}: {self.refusal}".replace("OpenCV :", "OpenCV:")
        return f"OpenCV {self.version}: runs, largest difference {self.difference:.1e} of the largest value"


def opencv_verdict(path: Path) -> OpenCvVerdict:
    """Load a file with ``cv2.dnn.readNetFromONNX``, run it on noise, and compare with ONNX Runtime.

    It is run in a process of its own, which may fail in any way. A dynamic batch is run with one image.

    Args:
        path: the ``.onnx`` file.

    Raises:
        EdgevitError: when ONNX Runtime cannot run the file.
    """
    artefact = OnnxArtefact.open(path)
    inputs = {tensor.name: noise_like(tensor.shape, tensor.dtype) for tensor in artefact.inputs}
    with tempfile.TemporaryDirectory() as folder:
        given, results = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
        np.savez(given, allow_pickle=False, **inputs)
        command = [sys.executable, opencv_probe.__file__, str(path.resolve()), str(given), str(results)]
        try:
            process = subprocess.run(  # noqa: S603
                command, capture_output=True, text=True, errors="replace", check=False, timeout=_PATIENCE
            )
        except subprocess.TimeoutExpired:
            return OpenCvVerdict("", None, f"does not finish one image in {_PATIENCE} s")
        version, _, said = process.stdout.partition("\n")
        if process.returncode != 0:
            return OpenCvVerdict(version, None, _refusal(said or process.stderr, process.returncode))
        with np.load(results) as saved:
            actual = [saved[name] for name in saved.files]
    return _compared(version, actual, artefact.run(*inputs.values()))


def _refusal(said: str, status: int) -> str:
    """OpenCV's innermost reason, with the operator's name where it gives one."""
    if status < 0:
        return f"crashes (signal {-status})"
    words = " ".join(line.lstrip("> ").strip() for line in said.splitlines())
    cause = _IN_FUNCTION.sub("", _PLACE.split(words)[-1]).strip(" :'") or f"exit status {status}"
    operator = _OPERATOR.search(words)
    return f"refuses {operator[1] if operator else 'it'}: {cause}"


def _compared(version: str, actual: list[Array], expected: list[Array]) -> OpenCvVerdict:
    shapes = [[output.shape for output in outputs] for outputs in (actual, expected)]
    if shapes[0] != shapes[1]:
        return OpenCvVerdict(version, None, f"returns outputs of shape {shapes[0]}, not {shapes[1]}")
    worst = max(
        float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), np.finfo(np.float32).tiny))
        for ours, theirs in zip(actual, expected, strict=True)
    )
    if not worst <= _ANOTHER_RESULT:
        return OpenCvVerdict(version, None, f"computes something else: largest difference {worst:.1e}")
    return OpenCvVerdict(version, worst, None)
