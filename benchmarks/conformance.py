"""Models x formats x precisions: the table of tests/test_conformance.py, measured anew.

Usage: python benchmarks/conformance.py [--models NAME,...] [--write docs/conformance.md]
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.tables import write_table  # noqa: E402
from edgevit.export.formats import FORMATS  # noqa: E402
from tests.conformance import HALF, MISSES, PRECISIONS, Cell, half_rounding, program_of, try_cell  # noqa: E402
from tests.zoo import MODELS  # noqa: E402

COLUMNS = [(format_, precision) for format_ in FORMATS for precision in PRECISIONS]


def shown(cell: Cell, note: int | None) -> str:
    """A cell of the table: the relative error, struck where it misses, with the number of its reason."""
    figure = "refused" if cell.rel is None else f"{cell.rel:.0e}"
    if cell.passed:
        return figure
    return f"~~{figure}~~ [{note or '?'}]"


def measured(reason: str) -> str:
    """The figures behind a reason."""
    if reason != HALF:
        return "."
    models = dict.fromkeys(model for (model, *_), given in MISSES.items() if given == HALF)
    return f" ({', '.join(f'{model} by {half_rounding(program_of(model)):.0e}' for model in models)})."


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    reasons = list(dict.fromkeys(MISSES.values()))
    header = " | ".join(f"{format_} {precision}" for format_, precision in COLUMNS)
    rows = [f"| model | {header} |", "|---" * (len(COLUMNS) + 1) + "|"]
    passed = total = 0
    for model in options.models.split(","):
        cells = {column: try_cell((model, *column)) for column in COLUMNS}
        texts = []
        for column, cell in cells.items():
            reason = MISSES.get((model, *column))
            texts.append(shown(cell, None if reason is None else reasons.index(reason) + 1))
            if not cell.passed:
                print(f"{model} {' '.join(column)}: {cell.refusal or cell.rel}", file=sys.stderr)
        passed, total = passed + sum(cell.passed for cell in cells.values()), total + len(cells)
        rows.append(f"| {model} | {' | '.join(texts)} |")
        print(rows[-1], flush=True)
    share = f"{passed} of {total} cells pass ({100 * passed / total:.1f} %)."
    notes = [f"[{number}] {reason}{measured(reason)}" for number, reason in enumerate(reasons, 1)]
    print(share)
    if options.write:
        write_table(
            options.write, "conformance.py", "\n".join([*rows, "", share, *(["", *notes] if notes else [])])
        )


if __name__ == "__main__":
    main()
