"""Answers, written as JSON, with raw tensors behind it where they are asked for, or as classes."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgevit.runtime.protocol import DATATYPES, InferRequest, Served, Wanted
from edgevit.runtime.wire import Array

_NAMES = {dtype: name for name, dtype in DATATYPES.items()}


def write_response(
    served: Served, request: InferRequest, outputs: Mapping[str, Array], parameters: Mapping[str, object]
) -> tuple[bytes, int | None]:
    """The body of an answer, and how long its JSON is where raw tensors follow it.

    Args:
        served: the model.
        request: what was asked.
        outputs: all of them, by name.
        parameters: said beside them.
    """
    entries, raw = [], []
    for wanted in request.wanted:
        entry, data = entry_of(served, wanted, outputs[wanted.name])
        entries.append(entry)
        raw.append(data)
    value: dict[str, object] = {"model_name": served.name, "model_version": "1", "outputs": entries}
    if request.id:
        value["id"] = request.id
    if parameters:
        value["parameters"] = dict(parameters)
    head = json.dumps(value).encode("utf-8")
    binary = any(wanted.binary for wanted in request.wanted)
    return b"".join((head, *raw)), len(head) if binary else None


def entry_of(served: Served, wanted: Wanted, value: Array) -> tuple[dict[str, object], bytes]:
    """An output as JSON describes it, and its bytes where they are not in the JSON."""
    if wanted.classes:
        rows = [classes_of(row, served.labels, wanted.classes) for row in value.reshape(len(value), -1)]
        texts = [
            f"{score:f}:{place}" + (f":{label}" if label else "")
            for row in rows
            for score, place, label in row
        ]
        entry: dict[str, object] = {
            "name": wanted.name, "datatype": "BYTES", "shape": [len(rows), len(rows[0])]
        }  # fmt: skip
        encoded = [text.encode("utf-8") for text in texts]
        data, listed = b"".join(struct.pack("<I", len(text)) + text for text in encoded), list[Any](texts)
    else:
        datatype = _NAMES[value.dtype.newbyteorder("<")]
        entry = {"name": wanted.name, "datatype": datatype, "shape": list(value.shape)}
        data, listed = value.tobytes(), value.ravel().tolist()
    if wanted.binary:
        return {**entry, "parameters": {"binary_data_size": len(data)}}, data
    return {**entry, "data": [_json_number(each) for each in listed]}, b""


def _json_number(value: Any) -> Any:
    """A value as JSON can have it, which knows neither NaN nor infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def classes_of(scores: Array, labels: Sequence[str] | None, count: int) -> list[tuple[float, int, str]]:
    """The best classes, the best first: score, index, and name where it is known.

    Args:
        scores: (classes,).
        labels: their names, or None.
        count: how many, at most.
    """
    best = np.argsort(-scores.astype(np.float64), kind="stable")[:count]
    return [(float(scores[i]), int(i), labels[i] if labels and i < len(labels) else "") for i in best]
