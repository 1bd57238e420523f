"""Scores of units by themselves: weights, activations, gradients, or what the predictions lose without them.

`edgevit.pruning.analysis` puts units in order together, each loss made up for by those that stay. These
scores are what the field compares itself with, and what one looks at to understand a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch

from edgevit.errors import EdgevitError, closest
from edgevit.graph.axes import Axis, Dimensions, stored_tensors
from edgevit.graph.dimensions import Dim
from edgevit.graph.predictions import divergence, predict
from edgevit.graph.program import Program
from edgevit.graph.reads import Read, reads
from edgevit.graph.running import Override, Runner, batches
from edgevit.progress import track
from edgevit.pruning.fisher import Gate, gate_information

Method = Literal["l1", "activation", "gradient", "kl"]


def importance(
    program: Program, axes: Sequence[Axis], images: torch.Tensor, *, method: Method, seed: int = 0
) -> dict[Axis, torch.Tensor]:
    """How much each unit of some axes matters.

    - "l1": the sum of absolute values of all weights that it is in (Li et al. 2017, arXiv 1608.08710).
    - "activation": the root mean square of its values where they are read, summed over readers.
    - "gradient": half the mean square of the derivative of a drawn class's log-likelihood by a factor on the
      unit (Molchanov et al. 2019, arXiv 1906.10771, with the Fisher information's own classes): to second
      order the divergence when the unit is lost, in nats.
    - "kl": that divergence itself, KL(whole || without the unit) of the predictions, in nats, as in ED-ViT
      (arXiv 2410.11650). It takes one pass over the images for each unit.

    A unit is lost where it is read: norms that it passes before still see it.

    Args:
        program: best as `edgevit.graph.rewrites.prepare_for_export` gives it; its first result are logits.
        axes: of it, as `edgevit.graph.axes.find_axes` gives them.
        images: (n, channels, height, width) float32; those of some classes tell what matters for these.
        method: see above.
        seed: of the classes that are drawn for "gradient".

    Returns:
        float64 (axis.size,) for each axis.

    Raises:
        EdgevitError: when the method is unknown, or an axis is of another program.
    """
    if method not in get_args(Method):
        raise EdgevitError(f"method: {method!r} is unknown; {closest(method, get_args(Method))}")
    dimensions = Dimensions(program)
    leaves = dimensions.axes()
    for axis in axes:
        if axis not in leaves:
            raise EdgevitError(f"{axis.name}: is no axis of {program.card.name}")
    if method == "l1":
        return {axis: _l1(program, dimensions, axis, leaves[axis]) for axis in axes}
    found = {axis: reads(dimensions, leaves[axis]) for axis in axes}
    if method == "activation":
        return _activations(program, found, images)
    if method == "gradient":
        return losses_by_gradient(dimensions, found, images, seed=seed)
    return _divergences(program, found, images)


def _l1(program: Program, dimensions: Dimensions, axis: Axis, leaf: Dim) -> torch.Tensor:
    total = torch.zeros(axis.size, dtype=torch.float64)
    for node, _, value in stored_tensors(program):
        for place, dim in enumerate(dimensions.of[node]):
            units = dim.index_of(leaf)
            inside = units >= 0
            if bool(inside.any()):
                rows = value.detach().double().abs().movedim(place, 0).reshape(len(units), -1)
                sums = rows.sum(1)
                total.index_add_(0, units[inside], sums[inside])
    return total


def _activations(
    program: Program, found: Mapping[Axis, Sequence[Read]], images: torch.Tensor
) -> dict[Axis, torch.Tensor]:
    squares: dict[tuple[str, int], torch.Tensor] = {}
    wanted = {(read.source.name, read.place) for readings in found.values() for read in readings}
    counts: dict[tuple[str, int], int] = {}

    def look(name: str, value: torch.Tensor) -> None:
        for source, place in wanted:
            if source == name:
                rows = value.movedim(place, 0).flatten(1)
                sums = rows.double().square().sum(1)
                squares[name, place] = squares.get((name, place), torch.zeros_like(sums)) + sums
                counts[name, place] = counts.get((name, place), 0) + rows.shape[1]

    runner = Runner(program)
    with torch.no_grad():
        for part in batches(images):
            runner.observe(part, sorted({name for name, _ in wanted}), look)
    result = {}
    for axis, readings in found.items():
        total = torch.zeros(axis.size, dtype=torch.float64)
        for read in readings:
            key = (read.source.name, read.place)
            inside = read.units >= 0
            sums = torch.zeros(axis.size, dtype=torch.float64)
            sums.index_add_(0, read.units[inside], (squares[key] / counts[key])[inside])
            total += sums.sqrt()
        result[axis] = total
    return result


def losses_by_gradient(
    dimensions: Dimensions, axes: Mapping[Axis, Sequence[Read]], images: torch.Tensor, *, seed: int
) -> dict[Axis, torch.Tensor]:
    """The "gradient" importance, in nats, of the units of some axes.

    Args:
        dimensions: of the program.
        axes: with what reads them.
        images: (n, channels, height, width) float32.
        seed: of the classes that are drawn.
    """
    # What is read twice is scaled once.
    gates = {
        (axis, read.source.name): Gate(read.source.name, read.place, read.units, _images(dimensions, read))
        for axis, readings in axes.items()
        for read in readings
    }
    information = gate_information(dimensions.program, gates, images, seed=seed)
    totals = {axis: torch.zeros(axis.size, dtype=torch.float64) for axis in axes}
    for (axis, _), part in information.items():
        totals[axis] += part / 2
    return totals


def _images(dimensions: Dimensions, read: Read) -> int | None:
    """The dimension of images in what is read."""
    dims = dimensions.of[read.source]
    return next((place for place, dim in enumerate(dims) if dimensions.batch.root in dim.leaves()), None)


def _divergences(
    program: Program, found: Mapping[Axis, Sequence[Read]], images: torch.Tensor
) -> dict[Axis, torch.Tensor]:
    runner = Runner(program)
    expected = predict(runner, images).double()
    result = {}
    for axis in track(found, "masking units", len(found)):
        scores = []
        for unit in range(axis.size):
            overrides = {read.node.name: _without(read, unit) for read in found[axis]}
            scores.append(divergence(expected, predict(runner, images, overrides).double()))
        result[axis] = torch.stack(scores)
    return result


def _without(read: Read, unit: int) -> Override:
    """A reader to which a unit is zero."""
    target: Callable[..., Any] = read.node.target  # type: ignore[assignment]
    place = read.node.args.index(read.source)
    lost = (read.units == unit).nonzero().flatten()

    def compute(*args: Any, **kwargs: Any) -> Any:
        given = list(args)
        given[place] = given[place].index_fill(read.place, lost, 0.0)
        return target(*given, **kwargs)

    return compute
