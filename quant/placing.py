"""Which operations compute in integers: by name of a placement, with what the user excludes."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from torch.fx import Graph, Node

from edgevit.errors import EdgevitError, closest
from edgevit.graph.program import Program
from edgevit.graph.rewriting import module_path
from edgevit.quant.dynamic import DYNAMIC_BITS
from edgevit.quant.levels import Level, Levels, with_moves
from edgevit.quant.operators import can_be_integer, is_layer, reads_tokens
from edgevit.quant.precision import BitWidths

# What each placement makes of layers, and of everything else that has an integer kernel.
PLACEMENTS: dict[str, tuple[Level, Level]] = {
    # Linears multiply tokens that they quantize as they run; of convolutions the weights alone are integers.
    "dynamic": (Level.DYNAMIC, Level.FLOAT),
    # Layers multiply integers and give floats.
    "inputs": (Level.INPUTS, Level.FLOAT),
    # Layers read and give integers; what stands between them stays float.
    "layers": (Level.INTEGER, Level.FLOAT),
    # Everything that can.
    "full": (Level.INTEGER, Level.INTEGER),
}


def default_placement(bits: BitWidths) -> str:
    """The placement for so many bits.

    No runtime has kernels that give fewer than 8 bits, so that rounding a layer's output to them would
    cost accuracy and buy nothing.
    """
    return "layers" if bits.activations is not None and bits.activations >= 8 else "inputs"


def place(graph: Graph, placement: str, bits: BitWidths, exclude: Sequence[str] = ()) -> dict[str, Level]:
    """The level of every operation of a prepared graph that is not float.

    Args:
        graph: of the prepared program.
        placement: of `PLACEMENTS`; not used where activations stay float.
        bits: weights alone are quantized where these leave activations float.
        exclude: patterns of layers that stay float: shell patterns on the layer's node name or on the
            dotted path of its module.

    Raises:
        EdgevitError: when the placement is unknown or not for so many bits, or a pattern fits no layer.
    """
    if placement not in PLACEMENTS:
        raise EdgevitError(f"--placement: {placement!r} is unknown; {closest(placement, PLACEMENTS)}")
    layers, others = PLACEMENTS[placement]
    if bits.activations is None:
        layers, others = Level.WEIGHTS, Level.FLOAT
    if layers == Level.DYNAMIC and bits.activations != DYNAMIC_BITS:
        raise EdgevitError(
            f"--placement {placement}: tokens are quantized to {DYNAMIC_BITS} bits as they come; take 8-bit "
            "activations, or another placement"
        )
    kept = excluded(graph, exclude)
    levels: dict[str, Level] = {}
    for node in graph.nodes:
        level = layers if is_layer(node) else others if can_be_integer(node) else Level.FLOAT
        if level == Level.DYNAMIC and not reads_tokens(node):
            level = Level.WEIGHTS
        if level != Level.FLOAT and node.name not in kept:
            levels[node.name] = level
    return with_moves(graph, levels) if layers == Level.INTEGER else levels


def excluded(graph: Graph, patterns: Sequence[str]) -> set[str]:
    """The layers that some patterns fit.

    Raises:
        EdgevitError: when a pattern fits none.
    """
    layers = [node for node in graph.nodes if is_layer(node)]
    found: set[str] = set()
    for pattern in patterns:
        matching = {
            node.name
            for node in layers
            if fnmatch.fnmatchcase(node.name, pattern) or fnmatch.fnmatchcase(module_path(node), pattern)
        }
        if not matching:
            names = [module_path(node) or node.name for node in layers]
            raise EdgevitError(
                f"--exclude {pattern}: it fits none of the {len(layers)} layers; {closest(pattern, names)}"
            )
        found |= matching
    return found


def check_levels(program: Program, levels: Levels, bits: BitWidths, *, where: str) -> None:
    """Refuse levels that operations of a prepared program cannot have.

    Raises:
        EdgevitError: `where`, the operation, and what it can have.
    """
    nodes = {node.name: node for node in program.graph.nodes if node.op == "call_function"}
    for name, level in levels.items():
        if name not in nodes:
            raise EdgevitError(
                f"{where}: {name}: {program.card.name} has no such operation; {closest(name, nodes)}"
            )
        wrong = _wrong(nodes[name], level, bits)
        if wrong is not None:
            raise EdgevitError(f"{where}: {name}: {wrong}")


def _wrong(node: Node, level: Level, bits: BitWidths) -> str | None:
    """Why an operation cannot have a level, and what would be right."""
    if level == Level.FLOAT:
        return None
    if not can_be_integer(node):
        return "integer runtimes have no kernel for it; leave it out"
    if not is_layer(node) and level < Level.INPUTS:
        return "it has no weights; take inputs or integer"
    if level != Level.WEIGHTS and bits.activations is None:
        return "with these bits activations stay float; only weights can be integers"
    if level == Level.DYNAMIC and not (bits.activations == DYNAMIC_BITS and reads_tokens(node)):
        return f"only linears are dynamic, and only with {DYNAMIC_BITS}-bit activations; take another level"
    return None
