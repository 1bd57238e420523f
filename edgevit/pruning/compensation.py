"""Layers make up for what they no longer read: ridge regression of what they gave before on what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from edgevit.errors import EdgevitError
from edgevit.graph.axes import LAYERS, Axis, Dimensions
from edgevit.graph.dimensions import Dim
from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor, is_call, same_shape, shape_of
from edgevit.graph.running import Runner, batches
from edgevit.graph.slicing import sliced
from edgevit.progress import track
from edgevit.pruning.moments import outputs_made, rows_read
from edgevit.pruning.regression import BATCH, HELD_OUT, Compensated, Regression

FEWEST_IMAGES = 2 * BATCH


def compensate(
    whole: Program, small: Program, keep: Mapping[Axis, Sequence[int]], images: torch.Tensor
) -> tuple[Program, tuple[Compensated, ...]]:
    """Fit every layer behind the first slice to what it gave in the whole program.

    Layer after layer, each on what the layers before it, fitted already, let it read::

        W, b = argmin E |W x_small + b - y_whole|² + ridge |(W - W_sliced) D|²     D: deviations of x_small

    A layer whose result is added to a skip connection also makes up for what went wrong there: its target is
    ``y_whole + skip_whole - skip_small``. So errors are mended and not passed on. The ridge is chosen on a
    quarter of the images, and a layer that no ridge makes better there keeps its weights.

    Args:
        whole: the program before it was sliced.
        small: what `edgevit.graph.slicing.slice_axes` made of it; operations of the same name may read other
            stored tensors, as where something stands in for a residual branch.
        keep: what it was sliced by.
        images: (n, channels, height, width) float32; `FEWEST_IMAGES` at least. All of them pass through both
            programs at once, which takes the memory of what lives between two layers.

    Raises:
        EdgevitError: when there are fewer images.
    """
    if len(images) < FEWEST_IMAGES:
        raise EdgevitError(f"{len(images)} images to compensate with: give {FEWEST_IMAGES} or more")
    dimensions = Dimensions(whole)
    dims = dimensions.axes()
    choices = {dims[axis]: torch.tensor(list(indices)) for axis, indices in keep.items()}
    lockstep = _Lockstep(whole, small, dimensions, choices, images)
    results, weights = lockstep.run()
    editor = Editor(small)
    nodes = {node.name: node for node in editor.graph.nodes}
    for name, (weight, bias) in weights.items():
        layer = nodes[name]
        for constant, value in ((layer.args[1], weight), (_bias(layer), bias)):
            if isinstance(constant, Node) and value is not None:
                layer.replace_input_with(constant, editor.with_value(constant, layer, value))
    return editor.finish("compensate", layers=len(weights)), tuple(results)


class _Lockstep:
    """Two programs of the same nodes, run node by node on all images."""

    def __init__(
        self,
        whole: Program,
        small: Program,
        dimensions: Dimensions,
        choices: Mapping[Dim, torch.Tensor],
        images: torch.Tensor,
    ) -> None:
        self.dimensions, self.choices = dimensions, choices
        self.runners = (Runner(whole), Runner(small))
        parts = list(batches(images, BATCH))
        self.values: tuple[dict[str, list[Any]], ...] = tuple(
            {runner.image: list(parts)} for runner in self.runners
        )
        self.count = len(parts)
        self.differing: set[str] = set()

    def run(self) -> tuple[list[Compensated], dict[str, tuple[torch.Tensor, torch.Tensor | None]]]:
        """Results and new weights by layer."""
        whole, small = self.runners
        results: list[Compensated] = []
        weights: dict[str, tuple[torch.Tensor, torch.Tensor | None]] = {}
        order = [node for node in whole.graph.nodes if node.op == "call_function"]
        last = {source.name: node.name for node in order for source in node.all_input_nodes}
        with torch.no_grad():
            for node in track(order, "compensating", len(order)):
                self.values[0][node.name] = self._all(whole, self.values[0], node)
                copy = small.nodes.get(node.name)
                fit = None if copy is None else self._mended(node, copy)
                if fit is not None:
                    results.append(fit.result)
                    if fit.result.ridge is not None:
                        weights[node.name] = (fit.weight, fit.bias)
                    self.values[1][node.name] = self._outputs(small.nodes[node.name], fit)
                # Sizes that are worked out from the image may be literals in the small one.
                elif copy is not None:
                    self.values[1][node.name] = self._all(small, self.values[1], copy)
                for source in node.all_input_nodes:
                    if last[source.name] == node.name:
                        for values in self.values:
                            values.pop(source.name, None)
        return results, weights

    def _all(self, runner: Runner, values: Mapping[str, list[Any]], node: Node) -> list[Any]:
        return [self._one(runner, values, node, index) for index in range(self.count)]

    def _one(self, runner: Runner, values: Mapping[str, list[Any]], node: Node, index: int) -> Any:
        args, kwargs = map_arg((node.args, node.kwargs), lambda source: _at(runner, values, source, index))
        target: Any = node.target
        return target(*args, **kwargs)

    def _outputs(self, layer: Node, fit: Regression) -> list[torch.Tensor]:
        """What the fitted layer gives."""
        target: Any = layer.target
        given = self.values[1][layer.all_input_nodes[0].name]
        return [target(value, fit.weight, fit.bias, *layer.args[3:]) for value in given]

    def _mended(self, node: Node, copy: Node) -> Regression | None:
        """The layer fitted anew; None where there is nothing to mend, or it cannot be."""
        if not self._differs(node, copy):
            return None
        mends = self._can_mend(copy) and not self._cuts_batch(node)
        self.differing.add(node.name)
        return self._fit(node, copy) if mends else None

    def _can_mend(self, copy: Node) -> bool:
        """Whether it is a layer without groups that reads something else than in the whole program.

        A weight that other layers have as well stays what it is: the program would grow.
        """
        if not is_call(copy, LAYERS) or copy.kwargs:
            return False
        source, *constants = (argument for argument in copy.args[:3] if isinstance(argument, Node))
        if any(constant.op != "placeholder" or len(constant.users) > 1 for constant in constants):
            return False
        channels = source.meta["val"].shape[-1 if copy.target is _LINEAR else 1]
        return source.name in self.differing and bool(channels == constants[0].meta["val"].shape[1])

    def _cuts_batch(self, node: Node) -> bool:
        """Whether what is cut is folded into the batch, whose size is another for every batch."""
        batch = self.dimensions.batch.root
        return any(
            batch in leaves and not self.choices.keys().isdisjoint(leaves)
            for leaves in (set(dim.leaves()) for dim in self.dimensions.of[node])
        )

    def _differs(self, node: Node, copy: Node) -> bool:
        """Whether the two programs compute something else here, be it a part of the same."""
        dims = [dim for source in (node, *node.all_input_nodes) for dim in self.dimensions.of.get(source, [])]
        cut = any(isinstance(dim, Dim) and dim.left(self.choices) < dim.size for dim in dims)
        read = [source.name for source in copy.all_input_nodes]
        return cut or not self.differing.isdisjoint(read) or not self.runners[0].nodes.keys() >= set(read)

    def _skip(self, node: Node) -> Node | None:
        """What a layer's result is added to, where that is known already."""
        reader = next(iter(node.users))
        if len(node.users) > 1 or not is_call(reader, {_ADD}) or len(reader.args) > 2 or reader.kwargs:
            return None
        others = [source for source in reader.all_input_nodes if source is not node]
        known = len(others) == 1 and all(others[0].name in values for values in self.values)
        return others[0] if known and same_shape(shape_of(others[0]), shape_of(node)) else None

    def _fit(self, node: Node, copy: Node) -> Regression:
        small = self.runners[1]
        given = self.values[1][copy.all_input_nodes[0].name]
        weight = _at(small, self.values[1], copy.args[1], 0)
        bias = _bias(copy)
        fit = Regression(copy.name, weight, None if bias is None else _at(small, self.values[1], bias, 0))
        out, skip = self.dimensions.of[node], self._skip(node)
        for index, value in enumerate(given):
            wanted = sliced(self.values[0][node.name][index], out, self.choices)
            if skip is not None:
                whole = sliced(self.values[0][skip.name][index], self.dimensions.of[skip], self.choices)
                wanted = wanted + (whole - self.values[1][skip.name][index])
            fit.add(rows_read(copy, value), outputs_made(copy, wanted), held_out=index % HELD_OUT == 1)
        fit.solve()
        return fit


_ADD = torch.ops.aten.add.Tensor
_LINEAR = torch.ops.aten.linear.default


def _bias(layer: Node) -> Node | None:
    bias = layer.args[2] if len(layer.args) > 2 else None
    return bias if isinstance(bias, Node) else None


def _at(runner: Runner, values: Mapping[str, list[Any]], source: Any, index: int) -> Any:
    return values[source.name][index] if source.name in values else runner.constants[source.name]
