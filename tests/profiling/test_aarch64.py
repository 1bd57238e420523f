"""The file that is sent to devices runs on another processor: Debian's Python for arm64, emulated."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from edgevit.profiling.packed import NAME, packed_probe
from edgevit.profiling.readings import Readings
from tests.profiling.test_probe import OPTIONS

QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
# Where .ci/aarch64-root put it.
ROOT = Path(os.environ.get("EDGEVIT_AARCH64_ROOT", Path(__file__).resolve().parents[2] / "build" / "aarch64"))


@pytest.fixture
def python(tmp_path) -> list[str]:
    """A command that is an arm64 Python."""
    if QEMU is None:
        pytest.skip("no user-mode emulator of arm64 (Debian: apt-get install qemu-user-static)")
    if not (ROOT / "usr/bin/python3").exists():
        pytest.skip(f"no arm64 Python in {ROOT}; .ci/aarch64-root {ROOT} fetches one")
    return [QEMU, "-L", str(ROOT), str(ROOT / "usr/bin/python3")]


@pytest.mark.slow
def test_the_probe_runs_on_arm64(python, tiny_onnx, tmp_path):
    (tmp_path / NAME).write_bytes(packed_probe())
    result = subprocess.run(
        [*python, str(tmp_path / NAME)],
        input=json.dumps({**OPTIONS, "artefact": str(tiny_onnx)}) + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    readings = Readings()
    for line in result.stdout.splitlines():
        readings.take(line)
    assert readings.ended, readings.refused or result.stderr
    found = readings.profile(tiny_onnx, "ssh://arm64")
    assert found.machine == "aarch64"
    assert found.runs == 5
    assert {"Gemm", "Softmax"} <= {item.kind for item in found.operators.operators}
