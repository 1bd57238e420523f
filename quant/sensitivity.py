"""How much each layer's quantization alone changes the predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from torch.fx import Node

from edgevit.graph.predictions import divergence
from edgevit.graph.program import Program
from edgevit.graph.rewriting import module_path
from edgevit.graph.running import Override, Runner, Values, batches
from edgevit.progress import track
from edgevit.quant.dynamic import quantize_tokens
from edgevit.quant.grids import quantize_bias
from edgevit.quant.insertion import Quantization
from edgevit.quant.levels import Level, gives_integers, level_of
from edgevit.quant.operators import bias_of, input_of, is_layer, layer_of, weight_of


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
    parts = list(batches(images))
    with torch.no_grad():
        found = [
            _part(runner, layers, quantization, part)
            for part in track(parts, "measuring sensitivity", len(parts))
        ]
    weights = [len(part) for part in parts]
    return tuple(_mean(items, weights) for items in zip(*found, strict=True))


def changed(reference: torch.Tensor, logits: torch.Tensor) -> float:
    """Percent of the rows whose largest element is another."""
    return 100.0 * float((reference.argmax(-1) != logits.argmax(-1)).float().mean())


def _part(
    runner: Runner, layers: Sequence[Node], quantization: Quantization, images: torch.Tensor
) -> list[LayerSensitivity]:
    """Every layer's sensitivity on one batch; what lies before a layer is computed once."""
    result = runner.results[0]
    reference = runner.run({runner.image: images}, [result])[result]
    values: Values = {runner.image: images}
    found = []
    for node in layers:
        values = runner.run(values, _alive(runner, node))
        overrides = {node.name: quantized_layer(node, quantization)}
        logits = runner.run(values, [result], overrides=overrides)[result]
        # Of equal ones rounding may leave a little less than nothing.
        shift, other = max(0.0, float(divergence(reference, logits))), changed(reference, logits)
        found.append(LayerSensitivity(node.name, module_path(node), shift, other))
    return found


def _alive(runner: Runner, node: Node) -> list[str]:
    """The image, and what is computed before a node and read by it or by what comes later."""
    before = list(takewhile(lambda other: other is not node, runner.graph.nodes))
    past = set(before)
    computed = [other for other in before if other.op == "call_function"]
    return [runner.image, *(other.name for other in computed if not past.issuperset(other.users))]


def _mean(items: Sequence[LayerSensitivity], weights: Sequence[int]) -> LayerSensitivity:
    """One layer's sensitivity over batches of so many images."""
    total = sum(weights)
    return replace(
        items[0],
        divergence=sum(w * item.divergence for item, w in zip(items, weights, strict=True)) / total,
        changed=sum(w * item.changed for item, w in zip(items, weights, strict=True)) / total,
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
        if level == Level.DYNAMIC:
            values[0] = quantize_tokens(values[0])
        if grid is not None:
            values[0] = grid.quantize(values[0])
            if has_bias:
                accumulator = scales * grid.scale
                values[bias] = quantize_bias(values[bias], accumulator).float() * accumulator
        result: torch.Tensor = node.target(*values, **kwargs)
        return result if after is None else after.quantize(result)

    return compute
