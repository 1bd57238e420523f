"""Device profiles with operators that nobody measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

SOURCE = {"source": "suite"}
KINDS = ("Conv float dense", "Conv float pointwise", "Gemm float", "Gelu float", "Add float", "Reshape float")


def profile_file(path: Path, *, slower: float = 1.0, threads: int = 1, models: Sequence[object] = ()) -> Path:
    """A device whose every operator takes 2 us, and one for 1e4 multiply-accumulates."""
    rows = [
        {
            "kind": kind,
            "macs": 10**step if kind.startswith(("Conv", "Gemm")) else 0,
            "read": 4 * 10**step,
            "us": slower * (2 + (10**step / 1e4 if kind.startswith(("Conv", "Gemm")) else 0)),
            "families": ["made-up"],
        }
        for kind in KINDS
        for step in (2, 3, 4, 5, 6)
    ]
    backend = {"runtime": "onnxruntime", "via": "CPUExecutionProvider", "unit": "cpu", "precisions": ["fp32"]}
    table = {
        "runtime": "onnxruntime",
        "release": "1.0",
        "threads": threads,
        "operators": rows,
        "models": [*models],
    }
    document = {
        "version": 1,
        "name": path.stem,
        "title": "Made up",
        "kind": "generic",
        "cpu": {"chip": "A chip", "arch": "arm64", **SOURCE},
        "memory": {"sizes_mb": [1024], **SOURCE},
        "os": {"name": "linux", "min_version": "6", **SOURCE},
        "runtimes": {"onnx": [backend | SOURCE]},
        "sources": {"suite": {"basis": "measurement", "title": "made up"}},
        "measured": {"version": 2, "runtimes": [table]},
    }
    path.write_text(yaml.safe_dump(document))
    return path
