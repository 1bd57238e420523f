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
from typing import Any

import torch
from torch.fx import Node

from edgevit.graph.axes import LAYERS, Dimensions
from edgevit.graph.dimensions import Dim
from edgevit.graph.program import Program
from edgevit.graph.reads import Read, reads
from edgevit.graph.rewriting import VIEWS, Editor, is_call
from edgevit.graph.running import Runner, batches

aten = torch.ops.aten

# What only moves numbers.
_MOVES = VIEWS | {aten.select.int, aten.contiguous.default, aten.clone.default}
_SCALINGS = frozenset({aten.mul.Scalar, aten.div.Scalar, aten.mul.Tensor, aten.div.Tensor})
_ATTENTION = aten.scaled_dot_product_attention.default
_PRODUCTS = frozenset({aten.matmul.default, aten.bmm.default})
# Of the mean variance: directions with less are noise.
_FLOOR = 1e-6


@dataclass(frozen=True)
class _Factor:
    """One factor of a product: rows of one layer's weight, or columns of it.

    Attributes:
        layer: whose weight makes it.
        heads: int64 (heads, width): the rows, or columns, of each head.
        numbers: the dimensions that number the heads, the outermost first.
        columns: whether they are columns.
    """

    layer: Node
    heads: torch.Tensor
    numbers: tuple[Dim, ...]
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
    """The product that an axis ends in, where linear layers alone make it; None where there is more."""
    if len(found) != 1:
        return None
    read = found[0]
    if read.by_layer:
        left, right = _value(dimensions, leaf, read.source), _columns(dimensions, leaf, read)
        seen = (read.source, read.place)
    elif is_call(read.node, {_ATTENTION, *_PRODUCTS}):
        left, right = (_made(dimensions, leaf, operand) for operand in read.node.args[:2])
        seen = (left.layer, -1) if left else (read.source, -1)
    else:
        return None
    if left is None or right is None or left.layer is right.layer or left.numbers != right.numbers:
        return None
    return _Product(left, right, seen)


def _value(dimensions: Dimensions, leaf: Dim, node: Node) -> _Factor | None:
    """What makes the values that attention mixes, from what is read behind it."""
    while is_call(node, _MOVES):
        node = node.all_input_nodes[0]
    if not is_call(node, {_ATTENTION, *_PRODUCTS}):
        return None
    place = 2 if node.target is _ATTENTION else 1
    others = [argument for argument in node.args[:place] if isinstance(argument, Node)]
    # What mixes them must not change with them.
    if any(leaf.root in dim.leaves() for other in others for dim in dimensions.of[other]):
        return None
    return _made(dimensions, leaf, node.args[place])


def _columns(dimensions: Dimensions, leaf: Dim, read: Read) -> _Factor | None:
    """The linear layer that reads what attention gives."""
    dim = dimensions.of[read.source][read.place]
    return _factor(read.node, dim, leaf, columns=True) if _is_own(read.node) else None


def _made(dimensions: Dimensions, leaf: Dim, node: Any) -> _Factor | None:
    """The linear layer that makes an operand, with only moves behind it, each read once."""
    while not is_call(node, LAYERS):
        scaled = is_call(node, _SCALINGS) and not isinstance(node.args[1], Node)
        if not (is_call(node, _MOVES) or scaled) or len(node.users) != 1:
            return None
        node = node.all_input_nodes[0]
    if not _is_own(node) or len(node.users) != 1:
        return None
    return _factor(node, dimensions.of[node][-1], leaf)


def _is_own(layer: Node) -> bool:
    """Whether it is a linear layer whose weight and bias are stored, and its alone."""
    constants = [constant for constant in layer.args[1:3] if isinstance(constant, Node)]
    return layer.target is aten.linear.default and all(
        constant.op == "placeholder" and len(constant.users) == 1 for constant in constants
    )


def _factor(layer: Node, dim: Dim, leaf: Dim, *, columns: bool = False) -> _Factor | None:
    """What a layer gives, or reads, in a dimension; None where that is not the axis, once for each head."""
    leaves = list(dim.leaves())
    units = dim.index_of(leaf)
    if leaves.count(leaf.root) != 1 or bool((units < 0).any()):
        return None
    heads = torch.stack([(units == unit).nonzero().flatten() for unit in range(leaf.size)], dim=1)
    return _Factor(layer, heads, tuple(found for found in leaves if found is not leaf.root), columns=columns)


def _moments(
    program: Program, products: Sequence[_Product], images: torch.Tensor
) -> dict[tuple[str, int], torch.Tensor]:
    """Sums of outer products, float64 (channels, channels); of keys and of what is mixed about images' means.

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
        rows = value.movedim(place, -1).reshape(len(value), -1, value.shape[place]).double()
        if name not in queries:
            rows = rows - rows.mean(1, keepdim=True)
        rows = rows.flatten(0, 1)
        totals[name, place] = totals.get((name, place), 0.0) + rows.T @ rows

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
    right_weight = editor.stored(right.args[1])
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
    roots = [_root(moment) for moment in (left, right)]
    u, values, v = torch.linalg.svd(roots[0].T @ roots[1])
    return roots[1] @ v.T / values.sqrt(), (u / values.sqrt()).T @ roots[0].T


def _root(moment: torch.Tensor) -> torch.Tensor:
    """R, with which R Rᵀ is the moment, where there is more than noise."""
    values, vectors = torch.linalg.eigh(moment)
    root: torch.Tensor = vectors * values.clamp_min(_FLOOR * float(values.mean().clamp_min(1e-12))).sqrt()
    return root


def _turn(editor: Editor, layer: Node, factor: _Factor, turns: Sequence[torch.Tensor]) -> None:
    """Multiply the rows of each head by a matrix, or the columns by its transpose."""
    for place, constant in enumerate(layer.args[1:3]):
        if constant is None or (factor.columns and place):
            continue
        value = editor.stored(constant).double()
        value = value.T.clone() if factor.columns else value.clone()
        for head, turn in zip(factor.heads, turns, strict=True):
            value[head] = turn @ value[head]
        value = value.T.contiguous() if factor.columns else value
        layer.replace_input_with(constant, editor.with_value(constant, layer, value.float()))  # type: ignore[arg-type]
