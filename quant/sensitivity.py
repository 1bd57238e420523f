"""How much each layer's quantization alone changes the predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from edgevit.graph.program import Program
from edgevit.progress import track
from edgevit.quant.grids import quantize_bias
from edgevit.quant.insertion import Quantization
from edgevit.quant.levels import Level, gives_integers, level_of
from edgevit.quant.operators import bias_of, input_of, is_layer, layer_of, module_path, weight_of
from edgevit.quant.running import Override, Runner, batches


@dataclass(frozen=True)
class LayerSensitivity:
    """What quantizing one layer, and nothing else, does to the predictions.

    Attributes:
        layer: its node name.
        module: the dotted path of its module; empty where the graph does not say.
        divergence: mean KL(float || quantized) of the class probabilities, in nats.
        changed: percent of images whose best class changes.
    """

    layer: str
    module: str
    divergence: float
    changed: float


def sensitivities(
    program: Program, quantization: Quantization, images: torch.Tensor
) -> tuple[LayerSensitivity, ...]:
    """The sensitivity of every quantized layer: its input, weight and, at level INTEGER, output.

    Args:
        program: the float program.
        quantization: made for it.
        images: (n, channels, height, width); some dozens are enough.
    """
    runner = Runner(program)
    layers = [node for node in program.graph.nodes if is_layer(node) and node.name in quantization.weights]
    with torch.no_grad():
        reference = _logits(runner, images, {})
        return tuple(
            _sensitivity(runner, node, quantization, images, reference)
            for node in track(layers, "measuring sensitivity", len(layers))
        )


def divergence(reference: torch.Tensor, logits: torch.Tensor) -> float:
    """Mean KL(reference || other) of the class probabilities, in nats.

    Args:
        reference: (n, classes) logits.
        logits: (n, classes).
    """
    expected, found = F.log_softmax(reference, dim=-1), F.log_softmax(logits, dim=-1)
    return max(0.0, float(F.kl_div(found, expected, reduction="batchmean", log_target=True)))


def changed(reference: torch.Tensor, logits: torch.Tensor) -> float:
    """Percent of the rows whose largest element is another."""
    return 100.0 * float((reference.argmax(-1) != logits.argmax(-1)).float().mean())


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


def _sensitivity(
    runner: Runner, node: Any, quantization: Quantization, images: torch.Tensor, reference: torch.Tensor
) -> LayerSensitivity:
    logits = _logits(runner, images, {node.name: quantized_layer(node, quantization)})
    return LayerSensitivity(
        node.name, module_path(node), divergence(reference, logits), changed(reference, logits)
    )


def quantized_layer(node: Any, quantization: Quantization) -> Override:
    """A layer's operator with everything quantized that its level asks for."""
    weight, scales = quantization.weights[node.name].dequantize(), quantization.weights[node.name].scales
    bias = layer_of(node).bias
    has_bias = bias_of(node) is not None and len(node.args) > bias
    level = level_of(node, quantization.levels)
    grid = quantization.activations.get(input_of(node).name) if level >= Level.INPUTS else None
    after = quantization.activations.get(node.name) if gives_integers(node, quantization.levels) else None
    position = [source is weight_of(node) for source in node.args].index(True)

    def compute(*args: Any, **kwargs: Any) -> torch.Tensor:
        values = list(args)
        values[position] = weight
        if grid is not None:
            values[0] = grid.quantize(values[0])
            if has_bias:
                accumulator = scales * grid.scale
                values[bias] = quantize_bias(values[bias], accumulator).float() * accumulator
        result: torch.Tensor = node.target(*values, **kwargs)
        return result if after is None else after.quantize(result)

    return compute


def _logits(runner: Runner, images: torch.Tensor, overrides: dict[str, Override]) -> torch.Tensor:
    result = runner.results[0]
    return torch.cat(
        [runner.run({runner.image: part}, [result], overrides=overrides)[result] for part in batches(images)]
    )
