"""Every model of the zoo in every format and precision: converted, run in its own runtime, compared."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from edgevit.errors import EdgevitError
from edgevit.export.formats import FORMATS, ExportChoices
from edgevit.export.verify import TOLERANCES, compare, noise
from edgevit.graph.capture import capture
from edgevit.graph.program import Program
from edgevit.graph.rewrites import prepare_for_export
from edgevit.quant.insertion import is_quantized
from edgevit.quant.quantizing import quantize
from tests.zoo import MODELS, VIDEO

PRECISIONS = ("fp32", "fp16")
# Model, format, precision.
Key = tuple[str, str, str]
CELLS: tuple[Key, ...] = tuple(
    (model, format_, precision) for model in MODELS for format_ in FORMATS for precision in PRECISIONS
)

# Model, format: every operator that can be is integer.
INTEGER_CELLS: tuple[tuple[str, str], ...] = tuple(
    (model, format_) for model in MODELS for format_ in FORMATS
)

HALF = "float16 itself: the Program differs as much from itself when torch rounds every result to float16"
# What a cell misses, and the exact reason. A cell that comes to pass has to leave this list.
MISSES: dict[Key, str] = {
    ("mobilevitv2_050", "coreml", "fp16"): HALF,
    ("hf_mobilevitv2", "coreml", "fp16"): HALF,
}


@dataclass(frozen=True)
class Cell:
    """What came of one model in one format and precision.

    Attributes:
        rel: largest difference over largest logit, over two inputs; None where nothing could be run.
        tolerance: what it may be; None likewise.
        refusal: the sentence with which it was refused, or None.
        seconds: of the conversion.
        passed: whether the artefact was made and lies within the precision's tolerance.
    """

    rel: float | None
    tolerance: float | None
    refusal: str | None
    seconds: float
    passed: bool


# What a format's converter is imported as: a test skips without it.
CONVERTERS = {"onnx": "onnxscript", "tflite": "litert_torch", "coreml": "coremltools"}


@functools.cache
def program_of(name: str) -> Program:
    """A model of the zoo, captured."""
    module, shape = MODELS[name]()
    return capture(
        module,
        input_size=(shape[-2], shape[-1]),
        # Noise then has mean 0 and variance 1, for which the batch norms of the zoo are settled.
        mean=(0.5,) * 3,
        std=(0.29,) * 3,
        frames=shape[0] if name in VIDEO else None,
        name=name,
    )


class _Rounding(torch.fx.Interpreter):
    """A graph whose every result is rounded to float16."""

    def run_node(self, n: torch.fx.Node) -> Any:
        return tree_map(_rounded, super().run_node(n))


def _rounded(value: Any) -> Any:
    is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.half().float() if is_float else value


def half_rounding(program: Program) -> float:
    """How far rounding to float16 moves a program by itself, in torch: relative as a cell is."""
    program = prepare_for_export(program.with_batch(2))
    inputs = torch.from_numpy(noise(program.card.preprocessing, 2, seed=3))
    with torch.no_grad():
        expected = program.module(inputs)
        found = tree_leaves(_Rounding(program.module).run(inputs))[0]
    return float((found - expected).abs().max() / expected.abs().max())


def try_cell(key: Key) -> Cell:
    """Export a model of the zoo, run it, compare."""
    name, format_name, precision = key
    return try_program(program_of(name), format_name, precision)


@functools.cache
def integer_program_of(name: str) -> Program:
    """A model of the zoo on integers of 8 bits wherever there is a kernel, its grids from noise."""
    program = program_of(name)
    images = noise(program.card.preprocessing, 8)
    return quantize(program, images, placement="full", method="minmax", spare=False).program


def try_integer_cell(name: str, format_name: str) -> Cell:
    """Write a quantized model of the zoo, which compares what is stored to the bit, run it, compare."""
    return try_program(integer_program_of(name), format_name, "fp32")


def try_program(program: Program, format_name: str, precision: str) -> Cell:
    """Export any program, run it, compare."""
    format_ = FORMATS[format_name]
    inputs = noise(program.card.preprocessing, 2, seed=3)
    with TemporaryDirectory() as folder:
        path = Path(folder) / format_.file
        started = time.perf_counter()
        try:
            format_.export(program, path, ExportChoices(precision=precision))
            seconds = time.perf_counter() - started
            (parity,) = compare(
                format_.open(path),
                program,
                inputs,
                described="noise",
                tolerance=TOLERANCES[precision],
                name=format_.file,
                rounding=is_quantized(program),
            ).outputs
        except EdgevitError as error:
            return Cell(None, None, str(error), time.perf_counter() - started, passed=False)
    return Cell(parity.rel, parity.tolerance, None, seconds, parity.passed)
