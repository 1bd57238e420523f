"""Every model of the zoo in every format and precision: converted, run in its own runtime, compared."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from edgevit.errors import EdgevitError
from edgevit.export.formats import FORMATS, ExportChoices
from edgevit.export.verify import TOLERANCES, compare
from edgevit.graph.capture import capture
from edgevit.graph.program import Program
from tests.zoo import MODELS, VIDEO, example

PRECISIONS = ("fp32", "fp16")
# Model, format, precision.
Key = tuple[str, str, str]
CELLS: tuple[Key, ...] = tuple(
    (model, format_, precision) for model in MODELS for format_ in FORMATS for precision in PRECISIONS
)

# What a cell misses, and the exact reason. A cell that comes to pass has to leave this list.
MISSES: dict[Key, str] = {}


@dataclass(frozen=True)
class Cell:
    """What came of one model in one format and precision.

    Attributes:
        rel: largest difference over largest logit, over two inputs; None where nothing could be run.
        refusal: the sentence with which it was refused, or None.
        seconds: of the conversion.
        passed: whether the artefact was made and lies within the precision's tolerance.
    """

    rel: float | None
    refusal: str | None
    seconds: float
    passed: bool


@functools.cache
def program_of(name: str) -> Program:
    """A model of the zoo, captured."""
    module, shape = MODELS[name]()
    return capture(
        module,
        input_size=(shape[-2], shape[-1]),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        frames=shape[0] if name in VIDEO else None,
        name=name,
    )


def try_cell(key: Key) -> Cell:
    """Export, run, compare."""
    name, format_name, precision = key
    program, format_ = program_of(name), FORMATS[format_name]
    inputs = example(program.card.preprocessing.input_shape, 2, seed=3).numpy()
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
            ).outputs
        except EdgevitError as error:
            return Cell(None, str(error), time.perf_counter() - started, passed=False)
    return Cell(parity.rel, None, seconds, parity.passed)
