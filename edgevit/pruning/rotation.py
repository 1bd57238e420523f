"""Turn the widths of attention heads so that their last units matter least; the network stays what it is.

A query and a key meet in a product, and so do what a head gives and the columns of the projection behind it.
Between the two factors any invertible matrix can be put beside its inverse. Balanced truncation (Moore 1981)
takes the one in whose coordinates both second moments are the same diagonal, in descending order: to keep the
first coordinates is then the best that so few can do for factors that are independent, and no choice of old
coordinates is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from edgevit.graph.axes import LAYERS, Dimensions
from edgevit.graph.dimensions import Dim
from edgevit.graph.program import Program
from edgevit.graph.reads import Read, reads
from edgevit.graph.rewriting import Editor, is_call
from edgevit.graph.running import Runner, batches

aten = torch.ops.aten

# What only moves numbers, or multiplies all of them by one.
_MOVES = frozenset(
    {
        aten.view.default,
        aten.reshape.default,
        aten.permute.default,
        aten.transpose.int,
        aten.select.int,
        aten.squeeze.dim,
        aten.unsqueeze.default,
        aten.flatten.using_ints,
        aten.unflatten.int,
        aten.contiguous.default,
        aten.clone.default,
    }
)
_SCALINGS = frozenset({aten.mul.Scalar, aten.div.Scalar, aten.mul.Tensor, aten.div.Tensor})
_ATTENTION = aten.scaled_dot_product_attention.default
# Of the mean variance: directions with less are noise.
_FLOOR = 1e-6


@dataclass(frozen=True)
class _Factor:
    """One factor of a product: rows of one layer's weight, or columns of it.

    Attributes:
        layer: whose weight makes it.
        heads: int64 (heads, width): the rows, or columns, of each head.
        columns: whether they are columns.
    """

    layer: Node
    heads: torch.Tensor
    columns: bool = False


@dataclass(frozen=True)
class _Product:
    """Two factors, and where to look at what the first one gives.

    Attributes:
        left: what is turned by a matrix.
        right: what is turned by its inverse.
        seen: the value that the moments of the left are taken of, and its dimension of channels.
    """

    left: _Factor
    right: _Factor
    seen: tuple[Node, int]


def rotate_heads(program: Program, images: torch.Tensor) -> tuple[Program, tuple[str, ...]]:
    """Put the widths of heads into balanced coordinates, wherever linear layers alone make them.

    Args:
        program: prepared, with fused projections split.
        images: (n, channels, height, width) float32, of which the moments are taken.

    Returns:
        The program, which computes what it did, and the names of the axes whose units are in order now, by
        `edgevit.graph.axes.find_axes` of it.
    """
    dimensions = Dimensions(program)
    products = {
        axis.name: found
        for axis, leaf in dimensions.axes().items()
        if not axis.fixed and axis.role in {"query-key", "value"}
        if (found := _product(dimensions, leaf, reads(dimensions, leaf))) is not None
    }
    if not products:
        return program, ()
    moments = _moments(program, list(products.values()), images)
    editor = Editor(program)
    for product in products.values():
        _rotate(editor, product, moments)
    return editor.finish("rotate_heads", widths=len(products)), tuple(products)


def _product(dimensions: Dimensions, leaf: Dim, found: Sequence[Read]) -> _Product | None:
    """The product of an axis that nothing but linear layers makes; None where there is something else."""
    if len(found) != 1:
        return None
    read = found[0]
    if not read.by_layer:
        operands = read.node.all_input_nodes[:2]
        query, key = (_made(dimensions, leaf, operand) for operand in operands)
        if query is None or key is None or query.layer is key.layer or query.heads.shape != key.heads.shape:
            return None
        return _Product(query, key, (query.layer, -1))
    source = read.source
    value = _value(dimensions, leaf, source)
    width = read.node.args[1].meta["val"].dim()  # type: ignore[union-attr]
    heads = _heads(dimensions.of[source][read.place], leaf)
    if value is None or heads is None or value.heads.shape != heads.shape or width != 2:
        return None
    return _Product(value, _Factor(read.node, heads, columns=True), (source, read.place))


def _value(dimensions: Dimensions, leaf: Dim, node: Node) -> _Factor | None:
    """What makes the values that attention mixes, from what is read behind it."""
    while is_call(node, _MOVES):
        node = node.all_input_nodes[0]
    if is_call(node, {_ATTENTION}):
        return _made(dimensions, leaf, node.all_input_nodes[2])
    if is_call(node, {aten.matmul.default, aten.bmm.default}):
        return _made(dimensions, leaf, node.all_input_nodes[1])
    return None


def _made(dimensions: Dimensions, leaf: Dim, node: Node) -> _Factor | None:
    """The linear layer that makes an operand, with only moves behind it, each read once."""
    while not is_call(node, LAYERS):
        scaled = is_call(node, _SCALINGS) and not isinstance(node.args[1], Node)
        if not (is_call(node, _MOVES) or scaled) or len(node.users) != 1:
            return None
        node = node.all_input_nodes[0]
    if node.target is not aten.linear.default or len(node.users) != 1:
        return None
    heads = _heads(dimensions.of[node][-1], leaf)
    return None if heads is None else _Factor(node, heads)


def _heads(dim: Dim, leaf: Dim) -> torch.Tensor | None:
    """int64 (heads, width): where the units of each head are; None where the axis is not all of them once."""
    if list(dim.leaves()).count(leaf.root) != 1:
        return None
    units = dim.index_of(leaf)
    if bool((units < 0).any()):
        return None
    return torch.stack([(units == unit).nonzero().flatten() for unit in range(leaf.size)], dim=1)


def _moments(
    program: Program, products: Sequence[_Product], images: torch.Tensor
) -> dict[tuple[str, int], torch.Tensor]:
    """float64 (channels, channels) second moments of values; keys and what is mixed about each image's mean.

    What a key has in common with all others of an image, softmax does not see; what a head gives on average,
    a bias makes up for.
    """
    wanted: dict[str, int] = {}
    for product in products:
        node, place = product.seen
        wanted[node.name] = place
        if not product.right.columns:
            wanted[product.right.layer.name] = -1
    queries = {product.left.layer.name for product in products if not product.right.columns}
    runner, totals = Runner(program), dict[tuple[str, int], torch.Tensor]()

    def look(name: str, value: torch.Tensor) -> None:
        place = wanted[name]
        rows = value.movedim(place, -1).reshape(len(value), -1, value.shape[place])
        if name not in queries:
            rows = rows - rows.mean(1, keepdim=True)
        rows = rows.flatten(0, 1)
        found = (rows.T @ rows).double() / len(rows)
        key = (name, place)
        totals[key] = totals[key] + found if key in totals else found

    with torch.no_grad():
        for part in batches(images):
            runner.observe(part, list(wanted), look)
    return totals


def _rotate(editor: Editor, product: _Product, moments: dict[tuple[str, int], torch.Tensor]) -> None:
    nodes = {node.name: node for node in editor.graph.nodes}
    node, place = product.seen
    left, right = (nodes[factor.layer.name] for factor in (product.left, product.right))
    seen = moments[node.name, place]
    by_place = product.right.heads if product.right.columns else product.left.heads
    right_weight = _value_of(editor, right.args[1])
    turns: list[tuple[torch.Tensor, torch.Tensor]] = []
    for head, other in zip(by_place, product.right.heads, strict=True):
        if product.right.columns:
            columns = right_weight[:, other].double()
            against = columns.T @ columns
        else:
            against = moments[right.name, -1][other][:, other]
        turns.append(balanced(seen[head][:, head], against))
    _turn(editor, left, product.left, [turn.T for turn, _ in turns])
    _turn(editor, right, product.right, [back for _, back in turns])


def balanced(left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix T and its inverse, with which Tᵀ left T and T⁻¹ right T⁻ᵀ are one diagonal, largest first.

    Args:
        left: float64 (width, width), a second moment.
        right: another.
    """
    roots = [torch.linalg.cholesky(moment + _floor(moment)) for moment in (left, right)]
    u, values, v = torch.linalg.svd(roots[0].T @ roots[1])
    root = values.clamp_min(values[0] * 1e-9).sqrt()
    return roots[1] @ v.T / root, (u / root).T @ roots[0].T


def _floor(moment: torch.Tensor) -> torch.Tensor:
    level = _FLOOR * moment.diagonal().mean().clamp_min(1e-12)
    return level * torch.eye(len(moment), dtype=moment.dtype)


def _turn(editor: Editor, layer: Node, factor: _Factor, turns: Sequence[torch.Tensor]) -> None:
    """Multiply the rows of each head by a matrix, or the columns by its transpose."""
    for place, constant in enumerate(layer.args[1:3]):
        if constant is None or (factor.columns and place):
            continue
        value = _value_of(editor, constant).double()
        value = value.T.clone() if factor.columns else value.clone()
        for head, turn in zip(factor.heads, turns, strict=True):
            value[head] = turn @ value[head]
        value = value.T.contiguous() if factor.columns else value
        layer.replace_input_with(constant, editor.with_value(constant, layer, value.float()))  # type: ignore[arg-type]


def _value_of(editor: Editor, constant: object) -> torch.Tensor:
    value = editor.value(constant)
    if value is None:
        raise TypeError(f"{constant} is no constant")
    return value
