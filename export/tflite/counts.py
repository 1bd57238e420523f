"""How often each operator occurs in a TFLite file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from edgevit import extras
from edgevit.export.tflite.check import IDENTIFIER, checked_model
from edgevit.export.tflite.flat import Table


def count_operators(path: str | Path) -> Counter[str]:
    """Operators of a file by their names in the schema, ``CONV_2D``.

    Raises:
        EdgevitError: when it is not a sound TFLite file.
        MissingDependencyError: without the ``tflite`` extra, which brings the names.
    """
    schema = extras.load("ai_edge_litert.schema_py_generated", "tflite", "naming TFLite operators")
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    model = Table.root(checked_model(Path(path).read_bytes(), str(path)), IDENTIFIER)
    # Files from before the schema's version 3a have the code in the older, one-byte field.
    codes = [max(code.scalar(0, "b"), code.scalar(3, "i")) for code in model.tables(1)]
    used = (operator.scalar(0, "I") for graph in model.tables(2) for operator in graph.tables(3))
    return Counter(names[codes[index]] for index in used)


def count_transposes(path: str | Path) -> int:
    """How many operators of a file only change the order of dimensions.

    Raises:
        EdgevitError: as `count_operators`.
        MissingDependencyError: as `count_operators`.
    """
    return count_operators(path)["TRANSPOSE"]
