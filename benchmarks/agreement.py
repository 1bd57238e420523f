"""How often three formats of one quantized Program give one class, beside how often torch agrees with itself.

Usage: python benchmarks/agreement.py [--shared DIR] [--models vit_tiny,hybrid] [--calib N] [--images N]
           [--write docs/quantization.md]

The same scales, zero points and integers are in all files; what differs is the last bits of the floats
between them. A value near the border of two integers then falls to its other side, and the quantizers behind
it read something else. How far that goes with a model torch shows alone: the same Program on the same images,
each pixel changed by one part in a million. It says little where the image itself is quantized: its quantizer
takes such a change away.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.quantization import MODELS, Model  # noqa: E402
from benchmarks.tables import write_table  # noqa: E402
from edgevit.export.formats import FORMATS, ExportChoices  # noqa: E402
from edgevit.graph.program import Array, Program  # noqa: E402
from edgevit.quant.quantizing import quantize  # noqa: E402

HEADER = (
    "| model | what runs the W8A8 Program | same class as in torch % | as the float model % | top-1 % |\n"
    "|---|---|---|---|---|"
)
FILES = (("onnx", "fp32"), ("tflite", "fp32"), ("coreml", "fp32"), ("coreml", "fp16"))
# What each pixel is changed by, relative to itself.
_CHANGE = 1e-6


def rows(name: str, model: Model, folder: Path) -> Iterator[str]:
    """The lines of a model's table."""
    floats = model.program.run(model.images)[0].argmax(1)
    program = quantize(model.program, model.calib, placement="layers", iterations=model.iterations).program
    expected = program.run(model.images)[0].argmax(1)
    runs = {"torch": expected, f"torch, pixels changed by {_CHANGE:g}": shaken(program, model.images)}
    runs |= {
        f"{to} {precision}": executed(program, to, precision, model.images, folder) for to, precision in FILES
    }
    for what, found in runs.items():
        shares = (found == expected, found == floats, found == np.asarray(model.labels))
        yield f"| {name} | {what} | " + " | ".join(f"{100 * share.mean():.1f}" for share in shares) + " |"
    for precision in ("fp32", "fp16"):
        files = (runs["onnx fp32"], runs["tflite fp32"], runs[f"coreml {precision}"])
        alike = 100 * np.all([found == files[0] for found in files], axis=0).mean()
        yield f"| {name} | all three files give one class, Core ML as {precision} | {alike:.1f} | | |"


def shaken(program: Program, images: Array) -> Array:
    """Classes of images whose every pixel is a little larger or smaller, by chance."""
    signs = np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.float32), images.shape)
    found: Array = program.run(images * (1 + np.float32(_CHANGE) * signs))[0].argmax(1)
    return found


def executed(program: Program, to: str, precision: str, images: Array, folder: Path) -> Array:
    """Classes that a file gives in its runtime."""
    format_ = FORMATS[to]
    file = folder / precision / format_.file
    file.parent.mkdir(exist_ok=True)
    format_.export(program, file, ExportChoices(precision=precision))
    artefact = format_.open(file)
    logits = [artefact.run(images[place : place + 1])[0] for place in range(len(images))]
    found: Array = np.concatenate(logits).argmax(1)
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
