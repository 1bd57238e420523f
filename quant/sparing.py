"""Layers that stay float from the start: those whose quantization costs far more than it saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgevit.quant.sensitivity import LayerSensitivity


def outliers(found: Sequence[LayerSensitivity], *, share: float = 0.25, least: float = 1e-3) -> list[str]:
    """The layers that hold most of the damage: each more than `share` of what it and all below it do.

    Of as few layers as could share the damage evenly with that much for each, none stands out.

    Args:
        found: of every layer.
        share: 0 to 1.
        least: a divergence, in nats, below which nothing is an outlier.
    """
    ranked = sorted(found, key=lambda item: -item.divergence)
    names: list[str] = []
    for index, item in enumerate(ranked):
        rest = sum(other.divergence for other in ranked[index:])
        too_few = len(ranked) - index <= 1 / share
        if too_few or item.divergence <= least or item.divergence <= share * rest:
            break
        names.append(item.layer)
    return names


def bargains(
    found: Sequence[LayerSensitivity],
    costs: Mapping[str, float],
    *,
    budget: float = 1e-3,
    share: float = 0.12,
) -> list[str]:
    """The layers that do much damage and would cost little in float, best bargain first.

    Taken while the others do more than `budget`, and only so many that they cost at most `share` of what all
    layers together would, so that the time that is lost is bounded, whatever the model.

    Args:
        found: of every layer that would be quantized.
        costs: of leaving each float, above 0: milliseconds, or multiply-accumulates where none were measured.
        budget: a divergence, in nats. One thousandth changes the class of about one image in a hundred.
        share: 0 to 1.
    """
    left = sum(item.divergence for item in found)
    affordable = share * sum(costs[item.layer] for item in found)
    names: list[str] = []
    for item in sorted(found, key=lambda item: -item.divergence / costs[item.layer]):
        if left > budget and costs[item.layer] <= affordable:
            names.append(item.layer)
            left -= item.divergence
            affordable -= costs[item.layer]
    return names
