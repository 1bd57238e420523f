"""Where operators ran, with what is known about why not elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgevit.export.placement import placement
from edgevit.profiling.measurements import FellBack, Placed

# The names that placement tables have for the runtimes.
_TABLES = {"ai-edge-litert": "litert", "tflite-runtime": "tflite-runtime", "onnxruntime": "onnxruntime"}


def placed(
    artefact: Path, runtime: str, requested: str, units: Mapping[str, Mapping[str, int]] | None
) -> Placed | None:
    """Operators by what ran them, and those that what was asked for did not take.

    No runtime says why it does not take an operator; the placement tables do, for the kinds that a file has.

    Args:
        artefact: the file.
        runtime: its runtime, with its version.
        requested: what it was asked to run on.
        units: operators by kind under what ran them; None where the runtime does not say.
    """
    if units is None:
        return None
    elsewhere = {unit: kinds for unit, kinds in units.items() if unit != requested}
    reasons = _reasons(artefact, runtime.split(maxsplit=1)[0], requested) if elsewhere else {}
    unexplained = f"{runtime.split(maxsplit=1)[0]} does not say why {requested} did not take it"
    fell_back = [
        FellBack(kind, count, unit, reasons.get(kind, unexplained))
        for unit, kinds in elsewhere.items()
        for kind, count in kinds.items()
    ]
    return Placed(units, tuple(sorted(fell_back, key=lambda item: -item.count)))


def _reasons(artefact: Path, runtime: str, requested: str) -> dict[str, str]:
    for backend in placement(artefact).backends:
        if (backend.runtime, backend.via) == (_TABLES.get(runtime), requested):
            return {fallback.kind: fallback.reason for fallback in backend.fallbacks}
    return {}
