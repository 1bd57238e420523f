"""NNCF as a second engine: what it decides, carried over to this package's contract.

NNCF (https://github.com/openvinotoolkit/nncf) is given the prepared graph as a ``torch.fx`` module and the
settings it has for transformers: SmoothQuant (arXiv 2211.10438), ranges averaged over images, fast bias
correction. Its answer is that graph with quantizers in it. They are read, not kept:

- scales, of weights and of activations, are its scales snapped to float16, and weights are rounded to
  those, which gives its integers wherever float16 has its 11 bits;
- a zero point of uint8 is shifted to int8's, which changes no number that it stands for;
- values between which only data is moved share one grid, of the union of NNCF's ranges where they differ;
- SmoothQuant's factors become multiplications in the float graph, or go into the layer norm before them;
- what NNCF quantizes and no integer kernel of the contract computes stays float, and is named.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch

# Importing it declares torch.ops.quantized_decomposed.
import torch.ao.quantization.fx._decomposed
import torch.utils._pytree as pytree
from torch._subclasses import FakeTensor
from torch.fx import Graph, GraphModule, Node

from edgevit import extras
from edgevit.errors import EdgevitError
from edgevit.graph.program import Program
from edgevit.graph.rewriting import is_call
from edgevit.graph.running import Runner
from edgevit.progress import working
from edgevit.quant.grids import ActivationGrid, QuantizedWeight, round_weight, snapped, snapped_tensor
from edgevit.quant.insertion import Quantization
from edgevit.quant.levels import Group, Level, groups, is_read_as_integer
from edgevit.quant.operators import (
    FUSED_ACTIVATIONS,
    LAYERS,
    MOVES,
    POINTWISE,
    PRODUCTS,
    bias_of,
    is_layer,
    layer_of,
    weight_of,
)
from edgevit.quant.ranges import Granularity, SchemeChoice
from edgevit.quant.smooth import Smoothing, smooth

decomposed = torch.ops.quantized_decomposed

# The options of `edgevit.quant.quantizing.quantize` that NNCF is told of, or that are applied around it.
OPTIONS = frozenset({"engine", "precision", "granularity", "scheme", "exclude", "max_drop", "seed"})

_QUANTIZE = frozenset({decomposed.quantize_per_tensor.default, decomposed.quantize_per_channel.default})
_DEQUANTIZE = frozenset({decomposed.dequantize_per_tensor.default, decomposed.dequantize_per_channel.default})


@dataclass(frozen=True)
class Imported:
    """What NNCF made of a program.

    Attributes:
        program: the float program, smoothed: it computes the same.
        quantization: made for it.
        left_float: layers that NNCF quantizes no weight or input of, by node name.
        remarks: what of NNCF's answer could not be carried over, one sentence each.
    """

    program: Program
    quantization: Quantization
    left_float: tuple[str, ...]
    remarks: tuple[str, ...]


@dataclass
class Decisions:
    """What the graph says that NNCF returns, by node names of the graph that it was given.

    Attributes:
        grids: of every quantized activation, one for each quantizer on it; a smoothed one goes by the name
            of its smoothing.
        readers: operations that read quantized activations alone.
        partly: operations that read quantized activations, alone or among others.
        closed: operations whose every reader finds them quantized.
        weights: of layers, on NNCF's own grid.
        biases: of those layers, corrected.
        smoothings: by name.
    """

    grids: dict[str, list[ActivationGrid]] = field(default_factory=dict)
    readers: set[str] = field(default_factory=set)
    partly: set[str] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)
    weights: dict[str, QuantizedWeight] = field(default_factory=dict)
    biases: dict[str, torch.Tensor] = field(default_factory=dict)
    smoothings: dict[str, Smoothing] = field(default_factory=dict)


def check_options(asked: Mapping[str, object], defaults: Mapping[str, object]) -> None:
    """Refuse what NNCF would have to ignore.

    Args:
        asked: every option by name.
        defaults: the values that ask for nothing.

    Raises:
        EdgevitError: naming the first option that is not NNCF's, or a precision it is not asked for.
    """
    if asked["precision"] != "w8a8":
        raise EdgevitError(f"--quantize {asked['precision']}: --engine nncf quantizes to w8a8 and no other")
    for name, value in asked.items():
        if name not in OPTIONS and value != defaults[name]:
            raise EdgevitError(f"--{name.replace('_', '-')}: it means nothing to --engine nncf; leave it out")


def quantize_with_nncf(
    program: Program,
    images: torch.Tensor,
    *,
    ignored: Collection[str] = (),
    granularity: Granularity = "auto",
    scheme: SchemeChoice = "auto",
) -> Imported:
    """Let NNCF quantize a prepared program.

    Args:
        program: float, its batch dynamic.
        images: (n, channels, height, width) float32, prepared; NNCF sees them one at a time.
        ignored: names of operations that it leaves float.
        granularity: one weight scale for each output "channel", as "auto" is, or one for the "tensor".
        scheme: of activation grids; "auto" leaves each to NNCF.

    Raises:
        MissingDependencyError: when NNCF is not installed.
        EdgevitError: when it fails.
    """
    answer = _run(program, images, ignored, granularity, scheme)
    found = decisions(answer)
    smoothed, names = smooth(program, found.smoothings)
    levels = levels_of(smoothed.graph, found)
    grids = {names.get(name, name): value for name, value in found.grids.items()}
    constants = Runner(smoothed).constants
    activations: dict[str, ActivationGrid] = {}
    for group in groups(smoothed.graph, levels):
        activations |= dict.fromkeys(group.values, _grid(group, grids, constants))
    layers = [node.name for node in smoothed.graph.nodes if is_layer(node)]
    quantization = Quantization(
        levels,
        activations,
        {name: found.weights[name] for name in layers if name in levels},
        {name: found.biases[name] for name in layers if name in levels and name in found.biases},
    )
    left = tuple(name for name in layers if name not in levels and name not in ignored)
    return Imported(smoothed, quantization, left, _remarks(smoothed.graph, found, levels))


def _run(
    program: Program,
    images: torch.Tensor,
    ignored: Collection[str],
    granularity: Granularity,
    scheme: SchemeChoice,
) -> GraphModule:
    """NNCF's answer for a graph of one image."""
    nncf = _load()
    parameters = importlib.import_module("nncf.quantization.advanced_parameters")
    modes = parameters.QuantizationMode
    mode = {"sym": modes.SYMMETRIC, "asym": modes.ASYMMETRIC}.get(scheme)
    settings = parameters.AdvancedQuantizationParameters(
        # It would spare processors whose kernels overflow, at the price of a bit of every weight.
        overflow_fix=parameters.OverflowFix.DISABLE,
        # TFLite and Core ML have no activations with one scale for each channel.
        activations_quantization_params=parameters.QuantizationParameters(per_channel=False, mode=mode),
        weights_quantization_params=parameters.QuantizationParameters(per_channel=granularity != "tensor"),
        # Weights as floats on the grid with their scales beside them, not integers multiplied in the graph.
        backend_params={"compress_weights": False},
    )
    module = _module(program)
    with _quiet(nncf), working("NNCF quantizes"):
        try:
            answer: GraphModule = nncf.quantize(
                module,
                nncf.Dataset([image[None] for image in images]),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(images),
                ignored_scope=nncf.IgnoredScope(names=list(ignored)),
                advanced_parameters=settings,
            )
        # Its graph algorithms raise whatever Python does, and the first line is all a user can act on.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise EdgevitError(
                f"--engine nncf: NNCF {extras.version_of('nncf')} failed on {program.card.name}: {reason}"
            ) from error
    return answer


def _load() -> ModuleType:
    # It reports every call to its makers unless this is set when it is imported.
    os.environ.setdefault("NNCF_CI", "1")
    return extras.load("nncf", "nncf", "--engine nncf")


@contextlib.contextmanager
def _quiet(nncf: ModuleType) -> Iterator[None]:
    """Its progress bars and remarks go to standard output, where results belong."""
    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _module(program: Program) -> GraphModule:
    """The graph for one image: with a dynamic batch NNCF fails on some models."""
    module: GraphModule = program.with_batch(1).exported.module(check_guards=False)
    for value in pytree.tree_leaves([node.meta.get("val") for node in module.graph.nodes]):
        if isinstance(value, FakeTensor):
            # SmoothQuant works out shapes with a real factor and a fake tensor.
            value.fake_mode.allow_non_fake_inputs = True
    return module


def decisions(model: GraphModule) -> Decisions:
    """Read NNCF's answer."""
    found = Decisions()
    constant: set[Node] = set()
    on_grid: set[Node] = set()
    for node in model.graph.nodes:
        sources = [source for source in node.all_input_nodes if source not in constant]
        if node.op == "get_attr" or (node.op == "call_function" and not sources):
            constant.add(node)
        elif is_call(node, _QUANTIZE):
            found.grids.setdefault(_value_name(sources[0]), []).append(_grid_of(node))
        elif is_call(node, _DEQUANTIZE):
            on_grid.add(node)
        elif not on_grid.isdisjoint(sources):
            found.partly.add(node.name)
            if on_grid.issuperset(sources):
                found.readers.add(node.name)
                on_grid |= {node} if is_call(node, MOVES) else set()
        if node.users and all(is_call(user, _QUANTIZE) for user in node.users):
            found.closed.add(node.name)
    _read_layers(model, found)
    _read_smoothings(model, found)
    return found


def _value_name(node: Node) -> str:
    # All the calls of one smoothing give the same tensor.
    return str(node.target) if node.op == "call_module" else node.name


def _grid_of(quantizer: Node) -> ActivationGrid:
    """uint8 or int8, as the contract's int8: the numbers on the grid are the same."""
    _, scale, zero_point, quant_min, _, _ = quantizer.args
    return ActivationGrid(snapped(_number(scale)), int(_number(zero_point)) - int(_number(quant_min)) - 128)


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return value


def _read_layers(model: GraphModule, found: Decisions) -> None:
    for node in model.graph.nodes:
        if not is_call(node, LAYERS):
            continue
        weight, bias = weight_of(node), bias_of(node)
        if is_call(weight, _DEQUANTIZE):
            stored = weight.all_input_nodes[0]
            values = _constant(model, stored.args[0])
            axis = layer_of(node).axis
            scales = torch.as_tensor(_constant(model, stored.args[1])).float().expand(values.shape[axis])
            # The values are NNCF's integers times its scales: a snapped scale rounds them to those integers.
            found.weights[node.name] = round_weight(values, snapped_tensor(scales), bits=8, axis=axis)
        if bias is not None and bias.op == "get_attr":
            found.biases[node.name] = _constant(model, bias)


def _constant(model: GraphModule, value: Any) -> Any:
    """What a get_attr node stands for; any other value as it is."""
    if not isinstance(value, Node):
        return value
    owner, _, name = str(value.target).rpartition(".")
    return getattr(model.get_submodule(owner), name).detach()


def _read_smoothings(model: GraphModule, found: Decisions) -> None:
    for node in model.graph.nodes:
        if node.op != "call_module":
            continue
        name, source = str(node.target), node.all_input_nodes[0].name
        before = found.smoothings.get(name)
        layers = (before.layers if before else ()) + tuple(_readers(node))
        scale = model.get_submodule(name).get_buffer("_scale_value").detach().flatten()
        found.smoothings[name] = Smoothing(source, scale, layers)


def _readers(node: Node) -> list[str]:
    """The layers that read a value, through its quantizers or without."""
    names: list[str] = []
    for user in node.users:
        names += _readers(user) if is_call(user, _QUANTIZE | _DEQUANTIZE) else [user.name]
    return names


def levels_of(graph: Graph, found: Decisions) -> dict[str, Level]:
    """The level of every operation that NNCF computes on integers, and the contract can."""
    levels: dict[str, Level] = {}
    for node in graph.nodes:
        if node.name in found.readers and (level := _level(node, found)) != Level.FLOAT:
            levels[node.name] = level
            if level == Level.INTEGER and (activation := _absorbed(node, found)):
                levels[activation] = Level.INTEGER
    for node in reversed(graph.nodes):
        used = any(is_read_as_integer(node, user, levels) for user in node.users)
        if is_call(node, MOVES) and node.name in levels and not used:
            del levels[node.name]
    return levels


def _level(node: Node, found: Decisions) -> Level:
    gives = node.name in found.closed or _absorbed(node, found) is not None
    if is_layer(node) and node.name not in found.weights:
        return Level.FLOAT
    if is_layer(node) or is_call(node, PRODUCTS):
        return Level.INTEGER if gives else Level.INPUTS
    if is_call(node, MOVES) or (gives and is_call(node, POINTWISE)):
        return Level.INTEGER
    return Level.FLOAT


def _absorbed(node: Node, found: Decisions) -> str | None:
    """The activation function that runtimes compute inside a layer, where NNCF quantizes behind it."""
    user = next(iter(node.users), None)
    if user is None or len(node.users) > 1 or not is_layer(node) or not is_call(user, FUSED_ACTIVATIONS):
        return None
    return user.name if user.name in found.closed else None


def _grid(
    group: Group, grids: Mapping[str, list[ActivationGrid]], constants: Mapping[str, torch.Tensor]
) -> ActivationGrid:
    """NNCF's grid where it has one for the group, else the finest that covers all of its."""
    if group.fixed is not None:
        return group.fixed
    found = [grid for name in group.values for grid in grids.get(name, ())]
    if len(set(found)) == 1:
        return found[0]
    known = [constants[name] for name in group.values if name in constants]
    low = min([grid.low for grid in found] + [float(value.min()) for value in known])
    high = max([grid.high for grid in found] + [float(value.max()) for value in known])
    return ActivationGrid.of_range(low, high)


def _remarks(graph: Graph, found: Decisions, levels: Mapping[str, Level]) -> tuple[str, ...]:
    left = Counter(
        str(node.target).split(".")[1]
        for node in graph.nodes
        if node.name in found.partly and node.name not in levels
        # What moves data is named by what reads it, and a layer apart.
        if not (is_call(node, MOVES) or is_layer(node))
    )
    return tuple(
        f"NNCF quantizes inputs of {count} {name}, which the contract computes in float"
        for name, count in left.items()
    )
