"""Time to export ten models to every format, beside each format's stock converter in the same run.

Usage: python benchmarks/export.py [--models NAME,...] [--formats NAME,...] [--runs N]
           [--write docs/export.md]

The peer is what a user without edgevit calls on the module, as each converter's own documentation shows
it: `torch.onnx.export(model, dynamo=True)`; `litert_torch.convert(model).export(...)`; `torch.export`,
`run_decompositions` and `coremltools.convert`. edgevit's time is given twice: of the export alone, from a
Program, and with the capture that made the Program, which is done once whatever the number of formats.
Its export includes rewriting the graph, describing the file, opening it in its runtime and hashing it.
Runs alternate; ratios are medians over them, of processor time, since other work on the machine would
count in wall time. One thread. A stock converter that fails stands as such.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.models import MODELS  # noqa: E402
from benchmarks.tables import write_table  # noqa: E402
from edgevit.export.formats import FORMATS, ExportChoices  # noqa: E402
from edgevit.graph.capture import capture  # noqa: E402
from edgevit.graph.torchvision_shim import make_torchvision_importable  # noqa: E402

make_torchvision_importable()
import timm  # noqa: E402

WARM_UP = "vit_tiny_patch16_224"


def stock_onnx(model: torch.nn.Module, image: torch.Tensor, path: Path) -> None:
    """torch's own exporter."""
    torch.onnx.export(model, (image,), path, dynamo=True, external_data=False, verbose=False)


def stock_tflite(model: torch.nn.Module, image: torch.Tensor, path: Path) -> None:
    """litert-torch."""
    import litert_torch

    litert_torch.convert(model, (image,)).export(str(path))


def stock_coreml(model: torch.nn.Module, image: torch.Tensor, path: Path) -> None:
    """coremltools, with the mends without which its release fails beside today's numpy and torch."""
    import coremltools as ct

    from edgevit.export.coreml_shims import converter_shims
    from edgevit.export.mil.quiet import quiet_coremltools

    with quiet_coremltools(), converter_shims():
        exported = torch.export.export(model, (image,)).run_decompositions({})
        ct.convert(exported, minimum_deployment_target=ct.target.iOS16, skip_model_load=True).save(str(path))


STOCK: dict[str, Callable[[torch.nn.Module, torch.Tensor, Path], None]] = {
    "onnx": stock_onnx,
    "tflite": stock_tflite,
    "coreml": stock_coreml,
}


@dataclass
class Times:
    """Processor seconds of alternating runs; `failure` is the stock converter's own."""

    capture: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    stock: list[float] = field(default_factory=list)
    failure: str | None = None

    def add(self, capture: float, ours: float, stock: float) -> None:
        """One run more."""
        self.capture.append(capture)
        self.ours.append(ours)
        self.stock.append(stock)

    def row(self, model: str, format_: str) -> str:
        """One row of the table."""
        ours = statistics.median(self.ours)
        if self.failure is not None:
            return f"| {model} | {format_} | {ours:.1f} | fails: {self.failure} | | |"
        return (
            f"| {model} | {format_} | {ours:.1f} | {statistics.median(self.stock):.1f} "
            f"| {self.ratio():.2f} | {self.ratio(with_capture=True):.2f} |"
        )

    def ratio(self, *, with_capture: bool = False) -> float:
        """edgevit's time over the stock converter's."""
        extra = self.capture if with_capture else [0.0] * len(self.ours)
        pairs = zip(self.ours, extra, self.stock, strict=True)
        return statistics.median((ours + more) / stock for ours, more, stock in pairs)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of a call, and what it returned."""
    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        result = call()
    return time.process_time() - started, result


def measure(name: str, formats: list[str], runs: int, folder: Path) -> dict[str, Times]:
    """Alternating runs of one model."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    size = timm.data.resolve_model_data_config(model)["input_size"]
    times = {format_: Times() for format_ in formats}
    for _ in range(runs):
        for format_ in formats:
            times[format_].add(*one_run(times[format_], format_, model, size, folder))
    return times


def one_run(
    times: Times, format_: str, model: torch.nn.Module, size: tuple[int, int, int], folder: Path
) -> tuple[float, float, float]:
    """Processor seconds of capture, edgevit's export and the stock converter."""
    half = (0.5,) * 3
    captured, program = timed(lambda: capture(model, input_size=size[1:], mean=half, std=half))
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / FORMATS[format_].file
        ours, _ = timed(lambda: FORMATS[format_].export(program, path, ExportChoices()))
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / FORMATS[format_].file
        return captured, ours, run_stock(times, format_, model, torch.zeros(1, *size), path)


def run_stock(times: Times, format_: str, model: torch.nn.Module, image: torch.Tensor, path: Path) -> float:
    """Processor seconds of the stock converter; what it raises is the result."""
    try:
        seconds, _ = timed(lambda: STOCK[format_](model, image, path))
    except Exception as error:  # noqa: BLE001 - what the peer raises is reported
        times.failure = type(error).__name__
        return float("nan")
    return seconds


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    torch.set_num_threads(1)
    formats = options.formats.split(",")
    rows = [
        "| model | format | export s | stock s | export / stock | capture + export / stock |",
        "|---" * 6 + "|",
    ]
    ratios: dict[str, list[tuple[float, float]]] = {format_: [] for format_ in formats}
    with tempfile.TemporaryDirectory() as folder:
        # What is imported and cached once is nobody's.
        measure(WARM_UP, formats, 1, Path(folder))
        for name in options.models.split(","):
            for format_, times in measure(name, formats, options.runs, Path(folder)).items():
                rows.append(times.row(name, format_))
                if times.failure is None:
                    ratios[format_].append((times.ratio(), times.ratio(with_capture=True)))
                print(rows[-1], flush=True)
    for format_, pairs in ratios.items():
        alone, both = (statistics.median(values) for values in zip(*pairs, strict=True))
        rows.append(f"| **median** | {format_} | | | **{alone:.2f}** | **{both:.2f}** |")
        print(rows[-1])
    if options.write:
        write_table(options.write, "export.py", "\n".join(rows))


if __name__ == "__main__":
    main()
