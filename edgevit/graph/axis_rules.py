"""What each ATen operator says about dimensions: which of its inputs' and its outputs' are the same.

A rule gets a call and the dimensions of every tensor that it reads and gives, all of them with the sizes of
the graph, and makes some the same or fixes them. An operator without a rule fixes all dimensions of what it
reads and gives, and is named as the reason.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from edgevit.graph.dimensions import Dim, divided, product, same, total

aten = torch.ops.aten

Dims = list[Dim]


@dataclass(frozen=True)
class Call:
    """A call of an operator.

    Attributes:
        node: the call.
        dims: of every tensor that was computed so far, the call's own among them; a list of such for a
            tuple of tensors.
    """

    node: Node
    dims: dict[Node, Any]

    @property
    def out(self) -> Dims:
        """The dimensions of the result, or of its tensors where it is a tuple."""
        found: Dims = self.dims[self.node]
        return found

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument, given by place or by name."""
        node = self.node
        return node.args[place] if place < len(node.args) else node.kwargs.get(name, default)

    def tensor(self, place: int, name: str = "") -> Dims | None:
        """The dimensions of a tensor argument; None where it is left out."""
        given = self.argument(place, name)
        return self.dims[given] if isinstance(given, Node) else None

    def input(self) -> Dims:
        """The dimensions of the first argument."""
        found: Dims = self.dims[self.node.args[0]]  # type: ignore[index]
        return found

    def tensors(self) -> list[Dims]:
        """The dimensions of all tensors that are read, as they come."""
        return [self.dims[source] for source in self.node.all_input_nodes if self.dims.get(source)]


Rule = Callable[[Call], None]


def apply(call: Call) -> None:
    """What a call says of dimensions."""
    RULES.get(call.node.target, _unknown)(call)


def fix(dims: Iterable[Dim], reason: str) -> None:
    """Keep the sizes of some dimensions."""
    for dim in dims:
        dim.fix(reason)


def broadcast(inputs: Dims, out: Dims) -> None:
    """Dimensions that meet by broadcasting are the same, but for those of size 1 that are repeated."""
    for left, right in zip(reversed(inputs), reversed(out), strict=False):
        if left.size == right.size:
            same(left, right)


def _unknown(call: Call) -> None:
    reason = f"{call.node.target} is not known to slicing"
    for dims in [*call.tensors(), call.dims[call.node]]:
        for dim in dims:
            fix(dim if isinstance(dim, list) else [dim], reason)


def _elementwise(call: Call) -> None:
    for dims in call.tensors():
        broadcast(dims, call.out)


def _linear(call: Call) -> None:
    inputs, weight, bias = call.input(), call.tensor(1, "weight"), call.tensor(2, "bias")
    if weight is None:
        raise TypeError(f"{call.node.format_node()} has no weight")
    broadcast(inputs[:-1], call.out[:-1])
    same(inputs[-1], weight[1])
    same(call.out[-1], weight[0])
    if bias:
        same(bias[0], weight[0])


def _convolution(call: Call) -> None:
    inputs, weight, bias = call.input(), call.tensor(1, "weight"), call.tensor(2, "bias")
    if weight is None:
        raise TypeError(f"{call.node.format_node()} has no weight")
    count = call.argument(6, "groups", 1)
    same(inputs[0], call.out[0])
    same(call.out[1], weight[0])
    if bias:
        same(bias[0], weight[0])
    # Groups are the outer factor of the channels on both sides, and the weight's columns are those of one.
    groups, rows = Dim(count), Dim(weight[0].size // count)
    same(inputs[1], product([groups, weight[1]]))
    same(weight[0], product([groups, rows]))
    fix(weight[2:], "it is the extent of a kernel")
    fix([*inputs[2:], *call.out[2:]], "it is the extent of a grid")


def _batch_norm(call: Call) -> None:
    _elementwise_of_first(call)
    for place in range(1, 5):
        dims = call.tensor(place)
        if dims:
            same(dims[0], call.out[1])


def _layer_norm(call: Call) -> None:
    _elementwise_of_first(call)
    for place, name in ((2, "weight"), (3, "bias")):
        broadcast(call.tensor(place, name) or [], call.out)


def _group_norm(call: Call) -> None:
    _elementwise_of_first(call)
    channels, count = call.out[1], call.node.args[1]
    if not isinstance(count, int):
        raise TypeError(f"{call.node.format_node()} has no number of groups")
    same(channels, product([Dim(count), Dim(channels.size // count)]))
    for place, name in ((2, "weight"), (3, "bias")):
        dims = call.tensor(place, name)
        if dims:
            same(dims[0], channels)


def _elementwise_of_first(call: Call) -> None:
    broadcast(call.input(), call.out)


def _matmul(call: Call) -> None:
    left, right = call.tensor(0) or [], call.tensor(1) or []
    if min(len(left), len(right)) < 2:
        _unknown(call)
        return
    same(left[-1], right[-2])
    same(left[-2], call.out[-2])
    same(right[-1], call.out[-1])
    broadcast(left[:-2], call.out[:-2])
    broadcast(right[:-2], call.out[:-2])


def _einsum(call: Call) -> None:
    equation, operands = call.node.args[0], call.node.args[1]
    if "." in str(equation) or "->" not in str(equation):
        _unknown(call)
        return
    inputs, result = str(equation).replace(" ", "").split("->")
    by_letter = dict(zip(result, call.out, strict=True))
    for letters, operand in zip(inputs.split(","), operands, strict=True):  # type: ignore[arg-type]
        for letter, dim in zip(letters, call.dims[operand], strict=True):
            same(by_letter.setdefault(letter, dim), dim)


def _attention(call: Call) -> None:
    query, key, value = (call.tensor(place) for place in range(3))
    if query is None or key is None or value is None:
        raise TypeError(f"{call.node.format_node()} lacks a query, key or value")
    same(query[-1], key[-1])
    same(key[-2], value[-2])
    same(query[-2], call.out[-2])
    same(value[-1], call.out[-1])
    fix([key[-2]], "a softmax is taken over it")
    for dims in (query, key, value):
        broadcast(dims[:-2], call.out[:-2])
    mask = call.tensor(3, "attn_mask")
    if mask:
        broadcast(mask, [*call.out[:-2], query[-2], key[-2]])


def _softmax(call: Call) -> None:
    _elementwise_of_first(call)
    fix([call.out[_place(call, 1, "dim", call.out)]], "a softmax is taken over it")


def _reshape(call: Call) -> None:
    same(product(call.out), product(call.input()))


def _permute(call: Call) -> None:
    inputs = call.input()
    for dim, source in zip(call.out, call.argument(1, "dims"), strict=True):
        same(dim, inputs[source])


def _transpose(call: Call) -> None:
    order = list(call.input())
    first, second = _place(call, 1, "dim0", order), _place(call, 2, "dim1", order)
    order[first], order[second] = order[second], order[first]
    for dim, source in zip(call.out, order, strict=True):
        same(dim, source)


def _cat(call: Call) -> None:
    place = _place(call, 1, "dim", call.out, 0)
    parts = [call.dims[part] for part in call.node.args[0]]  # type: ignore[union-attr,index]
    same(call.out[place], total([part[place] for part in parts]))
    for part in parts:
        _others_same(part, call.out, place)


def _stack(call: Call) -> None:
    place = _place(call, 1, "dim", call.out, 0)
    fix([call.out[place]], "it numbers parts of one tensor")
    others = _without(call.out, place)
    for part in call.node.args[0]:  # type: ignore[union-attr]
        _all_same(call.dims[part], others)  # type: ignore[index]


def _split(call: Call) -> None:
    place = _place(call, 2, "dim", call.input(), 0)
    inputs, pieces = call.input(), call.dims[call.node]
    found = divided(inputs[place], [piece[place].size for piece in pieces])
    for piece, dim in zip(pieces, found, strict=True):
        same(piece[place], dim)
        _others_same(piece, inputs, place)


def _unbind(call: Call) -> None:
    place = _place(call, 1, "dim", call.input(), 0)
    fix([call.input()[place]], "it numbers parts of one tensor")
    for piece in call.dims[call.node]:
        _all_same(piece, _without(call.input(), place))


def _select(call: Call) -> None:
    place = _place(call, 1, "dim", call.input(), 0)
    fix([call.input()[place]], "one of it is read")
    _all_same(call.out, _without(call.input(), place))


def _slice(call: Call) -> None:
    place, inputs = _place(call, 1, "dim", call.out, 0), call.input()
    _others_same(call.out, inputs, place)
    size, kept = inputs[place].size, call.out[place].size
    if size == kept:
        same(call.out[place], inputs[place])
        return
    first, step = call.argument(2, "start") or 0, call.argument(4, "step", 1)
    # What keeps its size anyway, as the batch does, need not come apart.
    if step != 1 or not isinstance(first, int) or all(leaf.fixed for leaf in inputs[place].leaves()):
        fix([call.out[place], inputs[place]], "some of it is read")
        return
    first = max(0, first + size) if first < 0 else first
    pieces = divided(inputs[place], [first, kept, size - first - kept])
    same(call.out[place], pieces[1])


def _getitem(call: Call) -> None:
    source, index = call.node.args
    _all_same(call.out, call.dims[source][index])  # type: ignore[index]


def _reduction(call: Call) -> None:
    """Some dimensions are summed or averaged away: they keep their sizes, the others stay what they are."""
    inputs, places = call.input(), call.argument(1, "dim")
    if call.node.target is aten.linalg_vector_norm.default:
        places = call.argument(2, "dim")
    places = range(len(inputs)) if places is None else places
    reduced = {place % len(inputs) for place in ([places] if isinstance(places, int) else places)}
    fix([inputs[place] for place in reduced], "it is reduced to one number")
    if len(call.out) == len(inputs):
        kept = [dim for place, dim in enumerate(call.out) if place not in reduced]
    else:
        kept = call.out
    _all_same(kept, [dim for place, dim in enumerate(inputs) if place not in reduced])


def _on_a_grid(places: int) -> Rule:
    """Pooling and resizing: of the last dimensions nothing is known, the others stay."""

    def rule(call: Call) -> None:
        inputs = call.input()
        _all_same(call.out[:-places], inputs[:-places])
        fix([*inputs[-places:], *call.out[-places:]], "it is the extent of a grid")

    return rule


def _pad(call: Call) -> None:
    padded = len(call.argument(1, "pad")) // 2
    _on_a_grid(padded)(call)


def _roll(call: Call) -> None:
    _elementwise_of_first(call)
    places = call.argument(2, "dims", ())
    fix([call.out[place] for place in places] or call.out, "it is rolled")


def _repeat(call: Call) -> None:
    out, inputs = call.out, call.input()
    added = [Dim(1) for _ in out[len(inputs) :]]
    for source, dim, times in zip([*added, *inputs], out, call.argument(1, "repeats"), strict=True):
        if times == 1:
            same(source, dim)
        else:
            fix([source, dim], "it is repeated")


def _made(call: Call) -> None:
    fix(call.out, "it is made in the graph")


def _cumulative(call: Call) -> None:
    _elementwise_of_first(call)
    fix([call.out[_place(call, 1, "dim", call.out)]], "it is summed up along")


def _place(call: Call, argument: int, name: str, dims: Dims, default: int | None = None) -> int:
    """The place of a dimension that an argument names, counted from the front of `dims`."""
    return int(call.argument(argument, name, default)) % len(dims)


def _without(dims: Dims, place: int) -> Dims:
    return [*dims[:place], *dims[place + 1 :]]


def _others_same(left: Dims, right: Dims, place: int) -> None:
    _all_same(_without(left, place), _without(right, place))


def _all_same(left: Sequence[Dim], right: Sequence[Dim]) -> None:
    for one, other in zip(left, right, strict=True):
        same(one, other)


_ELEMENTWISE = (
    aten.abs.default,
    aten.add.Tensor,
    aten.alias.default,
    aten.bitwise_not.default,
    aten.clamp.default,
    aten.clamp_min.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.cos.default,
    aten.div.Tensor,
    aten.elu.default,
    aten.exp.default,
    aten.expand.default,
    aten.gelu.default,
    aten.hardsigmoid.default,
    aten.hardswish.default,
    aten.hardtanh.default,
    aten.leaky_relu.default,
    aten.log.default,
    aten.maximum.default,
    aten.minimum.default,
    aten.mul.Tensor,
    aten.neg.default,
    aten.pow.Tensor_Scalar,
    aten.reciprocal.default,
    aten.relu.default,
    aten.relu6.default,
    aten.rsqrt.default,
    aten.sigmoid.default,
    aten.silu.default,
    aten.sin.default,
    aten.sqrt.default,
    aten.sub.Tensor,
    aten.tanh.default,
    aten.to.device,
    aten.to.dtype,
    aten.type_as.default,
    aten.where.self,
)

RULES: dict[Any, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    aten.linear.default: _linear,
    aten.conv1d.default: _convolution,
    aten.conv2d.default: _convolution,
    aten.batch_norm.default: _batch_norm,
    aten.layer_norm.default: _layer_norm,
    aten.group_norm.default: _group_norm,
    aten.matmul.default: _matmul,
    aten.bmm.default: _matmul,
    aten.einsum.default: _einsum,
    aten.scaled_dot_product_attention.default: _attention,
    aten.softmax.int: _softmax,
    aten.view.default: _reshape,
    aten.reshape.default: _reshape,
    aten.flatten.using_ints: _reshape,
    aten.unflatten.int: _reshape,
    aten.unsqueeze.default: _reshape,
    aten.squeeze.default: _reshape,
    aten.squeeze.dim: _reshape,
    aten.squeeze.dims: _reshape,
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.cat.default: _cat,
    aten.stack.default: _stack,
    aten.split.Tensor: _split,
    aten.split_with_sizes.default: _split,
    aten.chunk.default: _split,
    aten.unbind.int: _unbind,
    aten.select.int: _select,
    aten.slice.Tensor: _slice,
    operator.getitem: _getitem,
    aten.mean.dim: _reduction,
    aten.sum.dim_IntList: _reduction,
    aten.amax.default: _reduction,
    aten.linalg_vector_norm.default: _reduction,
    aten.adaptive_avg_pool1d.default: _on_a_grid(1),
    aten.adaptive_avg_pool2d.default: _on_a_grid(2),
    aten.avg_pool2d.default: _on_a_grid(2),
    aten.max_pool2d.default: _on_a_grid(2),
    aten.upsample_bilinear2d.vec: _on_a_grid(2),
    aten.upsample_bicubic2d.vec: _on_a_grid(2),
    aten.upsample_nearest2d.vec: _on_a_grid(2),
    aten.pad.default: _pad,
    aten.repeat.default: _repeat,
    aten.roll.default: _roll,
    aten.zeros.default: _made,
    aten.arange.start_step: _made,
    aten.cumsum.default: _cumulative,
}
