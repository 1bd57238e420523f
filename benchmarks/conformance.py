"""Models x formats x precisions: the table of tests/test_conformance.py, measured anew.

Usage: python benchmarks/conformance.py [--integers] [--models NAME,...] [--write docs/conformance.md]
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.tables import write_table  # noqa: E402
from edgevit.export.formats import FORMATS  # noqa: E402
from tests.conformance import (  # noqa: E402
    HALF,
    MISSES,
    PRECISIONS,
    Cell,
    half_rounding,
    program_of,
    try_cell,
    try_integer_cell,
)
from tests.zoo import MODELS  # noqa: E402

FLOATS = [(format_, precision) for format_ in FORMATS for precision in PRECISIONS]


def shown(cell: Cell, note: int | None = None) -> str:
    """A cell of the table: the relative error, struck where it misses, with the number of its reason."""
    figure = "refused" if cell.rel is None else f"{cell.rel:.0e}"
    if cell.passed:
        return figure
    return f"~~{figure}~~ [{note or '?'}]"


def shown_of(cell: Cell) -> str:
    """A cell of the table of integers, where what passes is not the same for all."""
    return shown(cell) if cell.tolerance is None else f"{shown(cell)} of {cell.tolerance:.0e}"


def told(cell: Cell, *key: str) -> Cell:
    """The cell; why it misses, if it does, is told at once."""
    if not cell.passed:
        print(f"{' '.join(key)}: {cell.refusal or cell.rel}", file=sys.stderr, flush=True)
    return cell


def measured(reason: str) -> str:
    """The figures behind a reason."""
    if reason != HALF:
        return "."
    models = dict.fromkeys(model for (model, *_), given in MISSES.items() if given == HALF)
    return f" ({', '.join(f'{model} by {half_rounding(program_of(model)):.0e}' for model in models)})."


def floats(models: list[str]) -> list[str]:
    """The lines of the table of float models."""
    reasons = list(dict.fromkeys(MISSES.values()))

    def note(*key: str) -> int | None:
        return reasons.index(MISSES[key]) + 1 if key in MISSES else None

    header = [f"{format_} {precision}" for format_, precision in FLOATS]
    lines = table(
        models,
        header,
        lambda model: [
            shown(told(try_cell((model, *key)), model, *key), note(model, *key)) for key in FLOATS
        ],
    )
    notes = [f"[{number}] {reason}{measured(reason)}" for number, reason in enumerate(reasons, 1)]
    return [*lines, *(["", *notes] if notes else [])]


def integers(models: list[str]) -> list[str]:
    """The lines of the table of quantized models."""
    return table(
        models,
        list(FORMATS),
        lambda model: [shown_of(told(try_integer_cell(model, key), model, key)) for key in FORMATS],
    )


def table(models: list[str], header: list[str], cells_of: Callable[[str], list[str]]) -> list[str]:
    """A line for each model, printed as it is measured, and how many cells pass."""
    lines = [f"| model | {' | '.join(header)} |", "|---" * (len(header) + 1) + "|"]
    passed = 0
    for model in models:
        cells = cells_of(model)
        passed += sum("~" not in cell for cell in cells)
        lines.append(f"| {model} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    total = len(models) * len(header)
    share = f"{passed} of {total} cells pass ({100 * passed / total:.1f} %)."
    print(share)
    return [*lines, "", share]


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--integers", action="store_true", help="quantized models instead of float ones")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = (integers if options.integers else floats)(options.models.split(","))
    if options.write:
        name = "conformance.py --integers" if options.integers else "conformance.py"
        write_table(options.write, name, "\n".join(lines))


if __name__ == "__main__":
    main()
