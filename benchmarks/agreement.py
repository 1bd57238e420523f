"""How often three formats of one quantized Program give one class, beside how often torch agrees with itself.

Usage: python benchmarks/agreement.py [--shared DIR] [--models vit_tiny,hybrid] [--calib N] [--images N]
           [--write docs/quantization.md]

The same scales, zero points and integers are in all files; what differs is the last bits of the floats
between them. A value near the border of two integers then falls to its other side, and the quantizers behind
it read something else. How far that goes, whoever runs it, torch shows alone: the same Program on the same
images three times, every number changed by one part in a million, some last bits of a float, where a
quantizer reads it; with weights alone there is none. What quantizers make of the image itself stays as it is:
all runtimes read the same pixels.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.quantization import MODELS, Model  # noqa: E402
from benchmarks.tables import write_table  # noqa: E402
from edgevit.export.formats import FORMATS, ExportChoices  # noqa: E402
from edgevit.export.quantized import QUANTIZE  # noqa: E402
from edgevit.graph.costs import macs_by_node  # noqa: E402
from edgevit.graph.predictions import predict  # noqa: E402
from edgevit.graph.program import Array, Program  # noqa: E402
from edgevit.graph.rewrites import prepare_for_export  # noqa: E402
from edgevit.graph.rewriting import calls  # noqa: E402
from edgevit.graph.running import Runner  # noqa: E402
from edgevit.quant.operators import is_layer  # noqa: E402
from edgevit.quant.quantizing import quantize  # noqa: E402

Classes = npt.NDArray[np.int64]

HEADER = (
    "| model | Program | left float, % of multiplications | one class in three runs of torch % "
    "| in three files, Core ML fp32 % | in three files, Core ML fp16 % | as the float model: torch % "
    "| ONNX % | TFLite % | Core ML fp32 % | Core ML fp16 % |\n|" + "---|" * 11
)
PROGRAMS: tuple[dict[str, Any], ...] = (
    {"precision": "w8a8", "placement": "layers"},
    {"precision": "w8a8", "placement": "inputs"},
    {"precision": "w8a8", "placement": "inputs", "max_drop": 0.5},
    {"precision": "w8"},
)
FILES = (("onnx", "fp32"), ("tflite", "fp32"), ("coreml", "fp32"), ("coreml", "fp16"))
# What each number is changed by, relative to itself.
_CHANGE = 1e-6


def rows(name: str, model: Model, folder: Path) -> Iterator[str]:
    """The lines of a model's table."""
    floats = classes(model.program, model.images)
    for asked in PROGRAMS:
        result = quantize(model.program, model.calib, iterations=model.iterations, **asked)
        program = result.program
        runs = [shaken(program, model.images, seed) for seed in range(3)] if "placement" in asked else []
        onnx, tflite, *coreml = (executed(program, *file, model.images, folder) for file in FILES)
        shares = [
            *(alike(onnx, tflite, core) for core in coreml),
            *(alike(floats, found) for found in (classes(program, model.images), onnx, tflite, *coreml)),
        ]
        described = ", ".join(f"--max-drop {v}" if k == "max_drop" else v for k, v in asked.items())
        print(f"{name}: {described}: done", file=sys.stderr, flush=True)
        limit = f"{alike(*runs):.1f}" if runs else "-"
        spared = f"{left_float(model.program, result.kept_float):.0f}"
        cells = (name, described, spared, limit, *(f"{share:.1f}" for share in shares))
        yield f"| {' | '.join(cells)} |"


def left_float(program: Program, kept_float: Collection[str]) -> float:
    """Percent of all layers' multiplications that those of some are."""
    prepared = prepare_for_export(program)
    macs = macs_by_node(prepared)
    layers = [node.name for node in prepared.graph.nodes if is_layer(node)]
    return 100 * sum(macs[layer] for layer in kept_float) / sum(macs[layer] for layer in layers)


def alike(first: Classes, *others: Classes) -> float:
    """Percent of images that get one class from all."""
    return 100 * float(np.all([found == first for found in others], axis=0).mean())


def classes(program: Program, images: Array) -> Classes:
    """What torch makes of the images."""
    found: Classes = program.run(images)[0].argmax(1)
    return found


def shaken(program: Program, images: Array, seed: int) -> Classes:
    """What torch makes of them, each number a little larger or smaller, by chance, before it is rounded."""
    runner = Runner(program)
    generator = torch.Generator().manual_seed(seed)

    def quantized(values: torch.Tensor, *grid: Any) -> torch.Tensor:
        signs = torch.randint(0, 2, values.shape, generator=generator) * 2 - 1
        result: torch.Tensor = QUANTIZE(values * (1 + _CHANGE * signs), *grid)
        return result

    inside = [
        node for node in calls(runner.graph, [QUANTIZE]) if node.args[0] is not runner.nodes[runner.image]
    ]
    logits = predict(runner, torch.from_numpy(images), {node.name: quantized for node in inside})
    found: Classes = logits.argmax(1).numpy()
    return found


def executed(program: Program, to: str, precision: str, images: Array, folder: Path) -> Classes:
    """What a file makes of them in its runtime."""
    format_ = FORMATS[to]
    file = folder / precision / format_.file
    file.parent.mkdir(exist_ok=True)
    format_.export(program, file, ExportChoices(precision=precision))
    artefact = format_.open(file)
    logits = [artefact.run(images[place : place + 1])[0] for place in range(len(images))]
    found: Classes = np.concatenate(logits).argmax(1)
    return found


def main() -> None:
    """Measure, print, and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shared", type=Path, default=ROOT.parent / "shared", help="where data and weights are"
    )
    parser.add_argument("--models", default="vit_tiny,hybrid")
    parser.add_argument("--calib", type=int, default=256, help="calibration images")
    parser.add_argument("--images", type=int, default=1000, help="images to compare on, at most")
    parser.add_argument("--write", type=Path, help="document that has the tables' markers")
    options = parser.parse_args()
    for name in options.models.split(","):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            model = MODELS[name](options.shared, folder, options.calib, options.images)
            table = "\n".join([HEADER, *rows(name, model, folder)])
        print(table, flush=True)
        if options.write:
            write_table(options.write, f"agreement.py --models {name}", table)


if __name__ == "__main__":
    main()
