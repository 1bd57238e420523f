"""Any pretrained Program made elastic, in closed form: its units sorted, its layers fitted to every width.

What is lost with the last units of an axis is to a large part an affine function of those that stay. For each
layer and each width a ridge regression says which, and the layer's weight takes it up. What may stand in for
a whole residual branch is found likewise. Nothing is trained and no labels are needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from edgevit.errors import EdgevitError
from edgevit.graph.axes import Axis, Dimensions, Role, stored_tensors
from edgevit.graph.card import Step
from edgevit.graph.predictions import predict
from edgevit.graph.program import Array, Program
from edgevit.graph.reads import Read, readers_in_order
from edgevit.graph.rewriting import Editor
from edgevit.graph.running import Runner, batches, spread
from edgevit.graph.slicing import sliced
from edgevit.progress import track
from edgevit.pruning.analysis import analyse, is_plain
from edgevit.pruning.moments import rows_read
from edgevit.pruning.prune import check_images, check_program, check_roles
from edgevit.pruning.regression import BATCH, HELD_OUT, Regression
from edgevit.submodels.branches import Replacement, Stand, branches_of, check_replacements, stands_for
from edgevit.submodels.nesting import Fit, Nesting, with_nesting

DEFAULT_ROLES: tuple[Role, ...] = ("hidden",)
# Of a hidden layer: from an eighth to all of it, as MatFormer's widths but evenly.
SHARES: tuple[float, ...] = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
# Images on which it is asserted that sorting changed nothing.
_CHECKED = 8
_SAME = 1e-4


@dataclass(frozen=True)
class ElasticResult:
    """An elastic Program, and what it took.

    Attributes:
        program: the nested one; extracted whole it computes what the one given does.
        widths: of each axis, in the order of the network.
        errors: for an axis, a width and a layer that reads it the mean squared error of what this gives,
            relative to its variance, without its new weight and with it, on images that are held out.
        images: how many were used.
    """

    program: Program
    widths: Mapping[str, tuple[int, ...]]
    errors: Mapping[tuple[str, int, str], tuple[float, float]]
    images: int


def elastic(
    program: Program,
    images: Array,
    *,
    roles: Collection[Role] = DEFAULT_ROLES,
    shares: Sequence[float] = SHARES,
    replacements: Collection[Replacement] = (),
    seed: int = 0,
) -> ElasticResult:
    """Sort the units of every axis by what they are worth, and fit what reads them to each width.

    Args:
        program: a float Program with a dynamic batch, whose first result are logits.
        images: (n, channels, height, width) float32, prepared as the card says; 16 at least, 256 are usual.
        roles: of the axes that may be narrower.
        shares: of an axis' units, at which it is to be nested; all of them always is one.
        replacements: of residual branches (`edgevit.submodels.branches`).
        seed: of what is drawn by chance.

    Raises:
        EdgevitError: when an option is out of range, the program or the images are unusable, no axis has such
            a role, one layer reads two of them, or no branch can be replaced.
    """
    check_roles(roles)
    check_replacements(replacements)
    if replacements and "residual" in roles:
        raise EdgevitError("--blocks with --role residual: what stands in for a branch has its full width")
    check_program(program)
    check_images(program, images)
    check_shares(shares)
    given = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
    analysis = analyse(program, given, roles=roles, seed=seed)
    if not analysis.curves:
        raise EdgevitError(
            f"{program.card.name} has no axis of role {' or '.join(roles)} that may be narrower"
        )
    order = {axis: list(reversed(curve.order)) for axis, curve in analysis.curves.items()}
    ordered = sort_units(analysis.program, order)
    _check_same(program, ordered, spread(given, _CHECKED))
    nesting, errors = _fitted(ordered, {axis.name for axis in order}, shares, given)
    nesting = replace(nesting, stands=_stands(ordered, replacements, given))
    step = Step(
        name="elastic",
        options={
            "roles": list(roles),
            "shares": list(shares),
            "replacements": list(replacements),
            "seed": seed,
        },
        measured={"images": len(images), "axes": len(order), "branches": len(nesting.replacements)},
    )
    made = with_nesting(Program(ordered.exported, program.card.with_step(step)), nesting)
    return ElasticResult(made, nesting.widths, errors, len(images))


def sort_units(program: Program, order: Mapping[Axis, Sequence[int]]) -> Program:
    """The program with the units of some axes in another order, wherever they occur; it computes the same.

    Args:
        program: of which the axes are.
        order: for each axis all of its units, the first to be first.
    """
    dimensions = Dimensions(program)
    leaves = dimensions.axes()
    choices = {leaves[axis]: torch.tensor(list(units)) for axis, units in order.items()}
    editor = Editor(program)
    nodes = {node.name: node for node in editor.graph.nodes}
    for node, _, value in stored_tensors(program):
        moved = sliced(value, dimensions.of[node], choices)
        if not torch.equal(moved, value):
            editor.set_value(nodes[node.name], moved)
    return editor.finish("sort_units", axes=len(order))


def _check_same(before: Program, after: Program, images: torch.Tensor) -> None:
    expected, found = (predict(Runner(one), images).double() for one in (before, after))
    error = float((found - expected).norm() / expected.norm().clamp_min(1e-30))
    if not error <= _SAME:
        raise AssertionError(f"sorting changed what {before.card.name} gives, by {error:.2g} of it")


def _fitted(
    program: Program, names: Collection[str], shares: Sequence[float], images: torch.Tensor
) -> tuple[Nesting, dict[tuple[str, int, str], tuple[float, float]]]:
    """The widths of each axis and the layers for each, and how well these do."""
    dimensions = Dimensions(program)
    found = {axis: readings for axis, readings in readers_in_order(dimensions) if axis.name in names}
    regressions = _regressions(program, [read for readings in found.values() for read in readings], images)
    widths: dict[str, tuple[int, ...]] = {}
    fits: dict[tuple[str, int], dict[str, Fit]] = {}
    errors: dict[tuple[str, int, str], tuple[float, float]] = {}
    for axis in track(found, "fitting widths", len(found)):
        widths[axis.name] = widths_of(axis.size, shares)
        for width in widths[axis.name][:-1]:
            for read in found[axis]:
                fit = regressions[read.node.name].narrowed((read.units >= 0) & (read.units < width))
                fit.solve()
                errors[axis.name, width, fit.name] = (fit.result.before, fit.result.after)
                if fit.result.ridge is not None:
                    fits.setdefault((axis.name, width), {})[fit.name] = Fit(fit.weight, fit.bias)
    return Nesting(widths, fits), errors


def _stands(
    program: Program, replacements: Collection[Replacement], images: torch.Tensor
) -> dict[tuple[str, Replacement], Stand]:
    if not replacements:
        return {}
    branches = branches_of(Dimensions(program))
    if not branches:
        raise EdgevitError(f"--blocks: {program.card.name} has no residual branch that could be replaced")
    return stands_for(program, branches, replacements, images)


def check_shares(shares: Sequence[float]) -> None:
    """Refuse what are no shares of an axis.

    Raises:
        EdgevitError: naming the first.
    """
    for share in shares:
        if not 0 < share <= 1:
            raise EdgevitError(
                f"--widths: {share:g} is no share; give numbers above 0 and up to 1, such as 0.5"
            )


def widths_of(size: int, shares: Sequence[float]) -> tuple[int, ...]:
    """The widths at some shares of an axis, all of it among them.

    >>> widths_of(3, (0.25, 0.5, 0.75))
    (1, 2, 3)
    """
    return tuple(sorted({max(1, round(share * size)) for share in shares} | {size}))


def _regressions(program: Program, found: Sequence[Read], images: torch.Tensor) -> dict[str, Regression]:
    """Of what each layer gives on all that it reads."""
    constants = Runner(program).constants
    by_source: dict[str, list[Read]] = {}
    regressions: dict[str, Regression] = {}
    for read in found:
        name = read.node.name
        if name in regressions:
            raise EdgevitError(f"{name} reads two axes; let one --role alone be elastic")
        if not is_plain(read):
            raise EdgevitError(f"{name} reads an axis, and is no layer without groups; take another --role")
        weight, *bias = (constants[node.name] for node in read.node.all_input_nodes[1:])
        regressions[name] = Regression(name, weight, bias[0] if bias else None)
        by_source.setdefault(read.source.name, []).append(read)
    seen: Counter[str] = Counter()

    def look(name: str, value: torch.Tensor) -> None:
        for read in by_source[name]:
            regression = regressions[read.node.name]
            rows = rows_read(read.node, value)
            wanted = torch.nn.functional.linear(rows, regression.weight.flatten(1), regression.bias)
            regression.add(rows, wanted, held_out=seen[name] % HELD_OUT == 1)
        seen[name] += 1

    runner = Runner(program)
    with torch.no_grad():
        for part in batches(images, BATCH):
            runner.observe(part, list(by_source), look)
    return regressions
