"""ONNX variants of ten models at their native sizes: latency against opset 20, nodes, parity, and OpenCV.

Usage: python benchmarks/onnx_variants.py [--models NAME,...] [--threads 1] [--runs 30] [--write docs/onnx.md]

Weights are random, with every branch made to matter (tests/zoo.py). The four files of a model are timed in
ONNX Runtime on the CPU one run of each at a time, so that whatever else the machine does slows all of them;
a ratio is of medians. `--write` replaces the table between the markers of a document.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.models import MODELS  # noqa: E402
from benchmarks.tables import write_table  # noqa: E402
from edgevit.export.onnx import OnnxArtefact, to_onnx  # noqa: E402
from edgevit.export.onnx.contest import time_files  # noqa: E402
from edgevit.export.onnx.opencv import opencv_verdict  # noqa: E402
from edgevit.export.timing import Timing  # noqa: E402
from edgevit.export.verify import compare  # noqa: E402
from edgevit.graph.capture import capture  # noqa: E402
from edgevit.graph.program import Program  # noqa: E402
from edgevit.graph.torchvision_shim import make_torchvision_importable  # noqa: E402
from tests.zoo import example, rerandomise, settle  # noqa: E402

make_torchvision_importable()
import timm  # noqa: E402

VARIANTS: dict[str, dict[str, object]] = {
    "opset 20": {},
    "opset 23": {"opset": 23},
    "fused for ONNX Runtime": {"optimize": "ort"},
    "float16": {"precision": "fp16"},
}
HEADER = (
    "| model | variant | nodes | MB | relative error | median ms | over opset 20 | OpenCV dnn |\n"
    "|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Variant:
    """One file of a model."""

    name: str
    path: Path
    nodes: int
    rel: float | None


def captured(name: str) -> Program:
    model = timm.create_model(name)
    config = timm.data.resolve_model_data_config(model)
    settle(rerandomise(model), example(config["input_size"], 8))
    return capture(
        model, input_size=config["input_size"][1:], mean=config["mean"], std=config["std"], name=name
    )


def written(program: Program, folder: Path) -> Iterator[Variant]:
    import onnx

    images = torch.randn(
        8, *(int(size) for size in program.input_shape[1:]), generator=torch.Generator().manual_seed(0)
    ).numpy()
    for name, options in VARIANTS.items():
        path = folder / f"{name.replace(' ', '-')}.onnx"
        to_onnx(program, path, **options)  # type: ignore[arg-type]
        (parity,) = compare(
            OnnxArtefact.open(path), program, images, described="noise", tolerance=1.0, name=name
        ).outputs
        yield Variant(name, path, len(onnx.load(path).graph.node), parity.rel)


def row(model: str, variant: Variant, timing: Timing, base: Timing) -> str:
    verdict = opencv_verdict(variant.path)
    opencv = f"{verdict.difference:.0e}" if verdict.refusal is None else verdict.refusal.partition(":")[0]
    ratio = "" if timing is base else f"{timing.median / base.median:.2f}x"
    rel = "not finite" if variant.rel is None else f"{variant.rel:.0e}"
    return (
        f"| {model} | {variant.name} | {variant.nodes} | {variant.path.stat().st_size / 1e6:.1f} | {rel} | "
        f"{timing.median:.1f} | {ratio} | {opencv} |"
    )


def measure(name: str, folder: Path, runs: int, threads: int) -> list[str]:
    """The rows of one model."""
    variants = list(written(captured(name), folder))
    contents = [variant.path.read_bytes() for variant in variants]
    timings = time_files(contents, runs=runs, threads=threads)
    return [row(name, variant, timing, timings[0]) for variant, timing in zip(variants, timings, strict=True)]


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = [HEADER]
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models.split(","):
            found = measure(name, Path(folder), options.runs, options.threads)
            print("\n".join(found), flush=True)
            rows += found
    if options.write:
        write_table(options.write, "onnx_variants.py", "\n".join(rows))


if __name__ == "__main__":
    main()
