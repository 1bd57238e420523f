"""What may cross a cut of a graph, and how many bytes it is.

Only what is computed from the inputs crosses. Parameters, what is computed from them alone, and sizes are
had on either side; so are the floats that a quantized program's integers stand for: the integers cross,
even where the floats are read on both sides. Where tokens are quantized as they come, the layer's kernel does
it, and what it makes of them does not cross. What crosses has the batch in front, so that the share of
each image is one piece of it: a tensor of windows, (batch x windows, ..), crosses as (batch, windows,
..).
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch

# Importing it declares torch.ops.quantized_decomposed.
import torch.ao.quantization.fx._decomposed
from torch._ops import OpOverload
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.rewrites.merge_reshapes import PERMUTES, RESHAPES
from edgevit.graph.rewriting import ancestors, is_call

aten = torch.ops.aten

WirePrecision = Literal["fp32", "fp16", "int8"]
WIRE_PRECISIONS: tuple[WirePrecision, ...] = get_args(WirePrecision)

_BYTES: dict[WirePrecision, int] = {"fp32": 4, "fp16": 2, "int8": 1}
QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default
# What a kernel does to the tokens that it reads.
_TOKENS = frozenset(
    {
        torch.ops.quantized_decomposed.choose_qparams_per_token_asymmetric.default,
        torch.ops.quantized_decomposed.quantize_per_token.default,
        torch.ops.quantized_decomposed.dequantize_per_token.default,
    }
)


@dataclass(frozen=True)
class CutTensor:
    """A tensor that crosses a cut.

    Attributes:
        name: of the node that gives it; of an input, as the card calls it.
        shape: of one image's share, without the batch.
        dtype: of its values, as in ``float32``.
        bytes: of one image's share, as it is.
        scale: of a quantized program's integers, what one of their steps stands for; None for other values.
        zero_point: the integer that stands for 0; None likewise.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    scale: float | None = None
    zero_point: int | None = None

    def bytes_at(self, precision: WirePrecision) -> int:
        """Bytes of one image's share, floats being sent in a precision; integers stay what they are."""
        is_float = self.dtype.startswith("float")
        return math.prod(self.shape) * _BYTES[precision] if is_float else self.bytes


class Grid(NamedTuple):
    """What integers stand for, scale times (integer - zero point), and the smallest and largest of them."""

    scale: float
    zero_point: int
    smallest: int
    largest: int


class Values:
    """What a graph computes from its inputs, and which of that may cross a cut.

    Args:
        program: its graph writes nothing in place.

    Attributes:
        computed: what is computed from the inputs and leads to a result, in order; the inputs first.
        tensors: what may cross, as it crosses.
    """

    def __init__(self, program: Program) -> None:
        self._batch = program.input_shapes[0][0]
        self.computed: dict[Node, None] = dict.fromkeys(program.inputs)
        self.tensors: dict[Node, CutTensor] = {}
        names = dict(zip(program.inputs, program.card.inputs, strict=True))
        leading = set(names)
        needed = ancestors(program.graph.output_node().all_input_nodes)
        calls = [node for node in program.graph.nodes if node.op == "call_function" and node in needed]
        for node in calls:
            if self.read_by(node) and not _is_had_anywhere(node):
                self.computed[node] = None
                if self._leads(node, leading):
                    leading.add(node)
        for node in self.computed:
            value = node.meta["val"]
            if node in leading and isinstance(value, torch.Tensor) and not _is_of_kernel(node):
                count = self.multiple(value.shape[0])
                if count is not None:
                    self.tensors[node] = self._tensor(node, names.get(node, node.name), count)

    def read_by(self, node: Node) -> list[Node]:
        """What a call reads of what is computed from the inputs; integers where it reads their floats."""
        sources = [
            source.all_input_nodes[0] if is_call(source, [DEQUANTIZE]) else source
            for source in node.all_input_nodes
        ]
        return [source for source in dict.fromkeys(sources) if source in self.computed]

    def bytes_of(self, node: Node) -> int:
        """Bytes of one image's share of a result; none for a tuple, whose parts have their own."""
        value = node.meta["val"]
        if not isinstance(value, torch.Tensor):
            return 0
        share = math.prod(map(_share, value.shape)) * value.itemsize
        return share // self._batch if isinstance(self._batch, int) else share

    def multiple(self, size: int | torch.SymInt) -> int | None:
        """How many times the batch a size is; None where it is something else."""
        if not isinstance(self._batch, int):
            count = _share(size)
            is_multiple = isinstance(size, torch.SymInt) and size.node.expr == count * self._batch.node.expr
            return count if is_multiple else None
        # Of several images in a number of them, nothing says how they lie in a larger one.
        return int(size) if self._batch == 1 else 1 if size == self._batch else None

    def _leads(self, node: Node, leading: set[Node]) -> bool:
        """Whether images lie one behind the other in the dimension of a result that depends on the batch.

        So they do where it is the batch, and where calls keep it as it is or reshape it together with what is
        behind it; not where whole batches were put beside one another, or in front of each image.
        """
        layout, sources = self._layout(node), self.read_by(node)
        if layout is None or layout[1] == 1 or isinstance(self._batch, int):
            return layout is not None
        if not leading.issuperset(sources):
            return False
        layouts = [self._layout(source) for source in sources]
        if is_call(node, RESHAPES):
            return layouts[0] is not None and layouts[0][0] == layout[0]
        return all(other is not None and other[1] == layout[1] for other in layouts)

    def _layout(self, node: Node) -> tuple[int, int] | None:
        """How many values lie in front of the dimension that depends on the batch, and how often it holds it.

        None where it is not told from the sizes. Of several tensors, those of the first.
        """
        value = node.meta["val"]
        first = value[0] if isinstance(value, tuple | list) else value
        if not isinstance(first, torch.Tensor) or first.ndim == 0:
            return None
        sizes: tuple[int | torch.SymInt, ...] = tuple(first.shape)
        places = [place for place, size in enumerate(sizes) if isinstance(size, torch.SymInt)]
        if isinstance(self._batch, int):
            places = [0]
        count = self.multiple(sizes[places[0]]) if len(places) == 1 else None
        return None if count is None else (math.prod(map(_share, sizes[: places[0]])), count)

    def _tensor(self, node: Node, name: str, count: int) -> CutTensor:
        value, grid = node.meta["val"], grid_of(node)
        rest = tuple(value.shape[1:])
        return CutTensor(
            name=name,
            shape=rest if count == 1 else (count, *rest),
            dtype=str(value.dtype).removeprefix("torch."),
            bytes=self.bytes_of(node),
            scale=None if grid is None else grid.scale,
            zero_point=None if grid is None else grid.zero_point,
        )


def _is_of_kernel(node: Node) -> bool:
    """Whether a value is quantized tokens, their grids, or the floats that they stand for."""
    (source, *_) = node.all_input_nodes if node.target is operator.getitem else (node,)
    return is_call(source, _TOKENS)


def _is_had_anywhere(node: Node) -> bool:
    """Whether a call gives a size, computes with such, or says what integers stand for."""
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor | tuple | list):
        return is_call(node, [DEQUANTIZE])
    return node.target is aten.sym_size.int or not isinstance(node.target, OpOverload)


def _share(size: int | torch.SymInt) -> int:
    """What is left of a size for a batch of one."""
    if not isinstance(size, torch.SymInt):
        return size
    expression = size.node.expr
    return int(expression.xreplace(dict.fromkeys(expression.free_symbols, 1)))


def grid_of(node: Node) -> Grid | None:
    """The grid on which integers were made, or are read, moved about or not; None for what is not such."""
    made = node
    while is_call(made, RESHAPES | PERMUTES):
        made = made.all_input_nodes[0]
    return _grid_in(made) if is_call(made, [QUANTIZE]) else _grid_read(node)


def _grid_read(node: Node) -> Grid | None:
    for reader in node.users:
        found = _grid_in(reader) if is_call(reader, [DEQUANTIZE]) else None
        if found is None and is_call(reader, RESHAPES | PERMUTES):
            found = _grid_read(reader)
        if found is not None:
            return found
    return None


def _grid_in(node: Node) -> Grid:
    _, scale, zero_point, smallest, largest, _ = node.args
    return Grid(float(scale), int(zero_point), int(smallest), int(largest))  # type: ignore[arg-type]
