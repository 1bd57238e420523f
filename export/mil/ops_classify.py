"""The classifier output of a package."""

from __future__ import annotations

from edgevit.export.mil.registry import Operands, Value, handles


@handles("classify")
def classify(op: Operands) -> tuple[Value, ...]:
    """The best label, and every label with its probability."""
    labels, probabilities = op.labels("classes"), op.tensor("probabilities").reshape(-1)
    if len(labels) != len(probabilities):
        raise ValueError(f"{len(labels)} labels for {len(probabilities)} probabilities")
    best = labels[int(probabilities.argmax())]
    return str(best), dict(zip(labels, probabilities.tolist(), strict=True))
