"""What a quantized Program stores, and whether an artefact stores the same: to the bit."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

# Importing it declares torch.ops.quantized_decomposed, without which no quantized Program can be loaded.
import torch.ao.quantization.fx._decomposed
from pydantic import JsonValue
from torch.fx import Node

from edgevit.errors import EdgevitError
from edgevit.graph.program import Program
from edgevit.graph.rewriting import VIEWS, Editor, calls, is_call
from edgevit.quant.dynamic import DEQUANTIZE_TOKENS, is_dynamic
from edgevit.quant.operators import MOVES

decomposed = torch.ops.quantized_decomposed

QUANTIZE = decomposed.quantize_per_tensor.default
DEQUANTIZE = decomposed.dequantize_per_tensor.default
DEQUANTIZE_STORED = decomposed.dequantize_per_channel.default

# The same numbers in other places, some of them more than once.
_IN_PLACES = VIEWS | {torch.ops.aten.expand.default}

# A grid: its scale as float32 bits, its zero point, the type its integers are stored as.
Grid = tuple[bytes, int, str]
# Stored integers: their type, shape, and bytes with the channels first; bytes of scales and zero points.
Stored = tuple[str, tuple[int, ...], bytes, bytes, bytes]

_T = TypeVar("_T", Grid, Stored)


@dataclass(frozen=True)
class Parameters:
    """Everything that quantization stored in a graph, and how often it stands there.

    Attributes:
        stored: integer weights and biases, and other constants that are quantized.
        quantized: grids that activations are brought to.
        dequantized: grids that activations are read from.
    """

    stored: Counter[Stored] = field(default_factory=Counter)
    quantized: Counter[Grid] = field(default_factory=Counter)
    dequantized: Counter[Grid] = field(default_factory=Counter)


def has_activations(program: Program) -> bool:
    """Whether any activation is brought to integers, and not weights alone."""
    return bool(calls(program.graph, [QUANTIZE]))


def has_int16(program: Program) -> bool:
    """Whether any activation is stored as int16."""
    return any(node.args[-1] == torch.int16 for node in calls(program.graph, [QUANTIZE]))


def check_static(program: Program, runtime: str) -> None:
    """Refuse grids that are chosen as the model runs, where no kernel chooses them.

    Raises:
        EdgevitError: when the program has any.
    """
    if is_dynamic(program):
        raise EdgevitError(
            f"{program.card.name} quantizes tokens as it runs, for which {runtime} has no kernel; quantize "
            "it with --placement inputs, or write it as TFLite"
        )


def grid(scale: float | npt.NDArray[Any], zero_point: Any, dtype: str) -> Grid:
    """A grid as it is compared."""
    return np.float32(scale).tobytes(), int(zero_point), dtype


def stored(
    values: npt.NDArray[Any],
    scales: float | npt.NDArray[Any],
    *,
    axis: int | None = None,
    zero_points: int | npt.NDArray[Any] = 0,
) -> Stored:
    """Integers as they are compared: channels first, whatever the layout; no sides of 1 where one scale is.

    Args:
        values: the integers.
        scales: one, or one for every channel.
        axis: the dimension of the channels; None where there is one scale.
        zero_points: as many as scales, or one.
    """
    first = np.ascontiguousarray(values if axis is None else np.moveaxis(values, axis, 0))
    real = np.asarray(scales, np.float32)
    if real.size == 1:
        first = first.squeeze()
    shifts = np.broadcast_to(np.asarray(zero_points, np.int32), real.shape)
    return str(values.dtype), first.shape, first.tobytes(), real.tobytes(), shifts.tobytes()


def parameters_of(program: Program) -> Parameters:
    """What a Program's quantizers are made of."""
    editor = Editor(store_constants(program))
    found = Parameters()
    for node in editor.graph.nodes:
        if is_call(node, [DEQUANTIZE_STORED]):
            values, scales = (_constant(editor, node, place) for place in (0, 1))
            found.stored[stored(values, scales, axis=int(node.args[3]))] += 1
        elif is_call(node, [QUANTIZE, DEQUANTIZE]):
            source, scale, zero_point, *_, dtype = node.args
            if editor.value(source) is not None:
                found.stored[stored(_constant(editor, node, 0), scale, zero_points=zero_point)] += 1
                continue
            place = found.quantized if node.target is QUANTIZE else found.dequantized
            place[grid(scale, zero_point, str(dtype).removeprefix("torch."))] += 1
    return found


def _constant(editor: Editor, node: Node, place: int) -> npt.NDArray[Any]:
    value = editor.value(node.args[place])
    if value is None:
        raise EdgevitError(f"{node.format_node()}: argument {place} is no constant")
    array: npt.NDArray[Any] = value.numpy()
    return array


def check_same(program: Parameters, artefact: Parameters, name: str) -> None:
    """Compare what an artefact stores with what its Program does.

    Raises:
        EdgevitError: when anything differs in a bit, is missing, or is there too often.
    """
    _check_counts("integer weights, biases and constants", program.stored, artefact.stored, name)
    _check_counts("quantizers", program.quantized, artefact.quantized, name)
    _check_counts("dequantizers", program.dequantized, artefact.dequantized, name)


def _check_counts(kind: str, ours: Counter[_T], theirs: Counter[_T], name: str) -> None:
    missing, added = (ours - theirs).total(), (theirs - ours).total()
    if missing or added:
        raise EdgevitError(
            f"{name}: of the Program's {ours.total()} {kind} the file lacks {missing}, and it has {added} "
            "that the Program has not; it would compute something else"
        )


def describe(program: Program) -> dict[str, JsonValue]:
    """How many bits, of how many tensors: for an artefact's options."""
    weights = Counter(
        _bits(int(node.args[5]))  # type: ignore[arg-type]
        for node in calls(program.graph, [DEQUANTIZE_STORED])
        if node.args[6] == torch.int8
    )
    activations = Counter(_bits(int(node.args[4])) for node in calls(program.graph, [QUANTIZE]))  # type: ignore[arg-type]
    told: dict[str, JsonValue] = {"weight_bits": _told(weights), "activation_bits": _told(activations)}
    tokens = len(calls(program.graph, [DEQUANTIZE_TOKENS]))
    return told | ({"quantized_as_it_runs": tokens} if tokens else {})


def _bits(largest: int) -> int:
    return largest.bit_length() + 1


def _told(counts: Counter[int]) -> JsonValue:
    return {str(bits): counts[bits] for bits in sorted(counts)}


def store_constants(program: Program) -> Program:
    """The program with constants stored as the integers that a quantizer would make of them on every run.

    Given::

        position embedding, float32 -> quantize -> dequantize
        class token, float32 -> expand to the batch -> quantize -> dequantize

    Result::

        position embedding, int8 -> dequantize
        class token, int8 -> dequantize -> expand to the batch
    """
    editor = Editor(program)
    changed = 0
    for node in calls(editor.graph, [QUANTIZE]):
        constant, moves = _moved_from(node)
        value = editor.value(constant)
        if value is None or not all(is_call(user, [DEQUANTIZE]) for user in node.users):
            continue
        with editor.before(node):
            stored_as = editor.add_tensor(f"{editor.path(constant)}_int8", QUANTIZE(value, *node.args[1:]))
            real = editor.call(DEQUANTIZE, stored_as, *node.args[1:])
            for move in moves:
                real = editor.call(move.target, real, *move.args[1:])
        for user in list(node.users):
            editor.replace(user, real)
        changed += 1
    return editor.finish("store_constants", changed=changed) if changed else program


def _moved_from(node: Node) -> tuple[Node, list[Node]]:
    """What a node's numbers are taken from, and the calls that move them, first to last."""
    moves: list[Node] = []
    source = node.all_input_nodes[0]
    while is_call(source, _IN_PLACES):
        moves.insert(0, source)
        source = source.all_input_nodes[0]
    return source, moves


def saturate_narrow_grids(program: Program) -> Program:
    """The program, its values cut off at the ends of grids that use fewer integers than their type has.

    Given a grid of 6 bits, which no runtime knows (its integers are stored as int8)::

        x -> quantize(-32 .. 31)

    Result::

        x -> clamp(low, high) -> quantize(-32 .. 31)

    Neither end is rounded away from its integer: rounding is monotonous and the ends are whole multiples of
    the scale, exact in float32 and off by less than half a step in float16. So the runtime's quantizer,
    which knows of int8's ends only, gives the same integers.
    """
    editor, changed = Editor(program), 0
    for node in calls(editor.graph, [QUANTIZE]):
        source, scale, zero_point, smallest, largest, _ = node.args
        if not _is_narrow(node) or _is_saturated(node):
            continue
        ends = [float(scale) * (end - zero_point) for end in (smallest, largest)]  # type: ignore[arg-type, operator]
        with editor.before(node):
            node.update_arg(0, editor.call(torch.ops.aten.clamp.default, source, *ends))
        changed += 1
    return editor.finish("saturate_narrow_grids", changed=changed) if changed else program


def _is_narrow(node: Node) -> bool:
    *_, smallest, largest, dtype = node.args
    whole = torch.iinfo(dtype)  # type: ignore[arg-type]
    return (smallest, largest) != (whole.min, whole.max)


def _is_saturated(node: Node) -> bool:
    """Whether nothing but integers of the very same grid can come, moved about, to a quantizer."""
    pending: list[Any] = [node.args[0]]
    while pending:
        source = pending.pop()
        if is_call(source, MOVES):
            pending.extend(source.all_input_nodes)
        elif not is_call(source, [DEQUANTIZE]) or source.args[1:] != node.args[1:]:
            return False
    return True
