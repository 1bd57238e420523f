"""Where the submodels of a nested Program differ: widths, what stands in for branches, and integers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from edgevit.graph.axes import Dimensions
from edgevit.graph.program import Program
from edgevit.quant.operators import is_layer, weight_of
from edgevit.submodels.branches import Branch, Replacement, branches_of
from edgevit.submodels.extraction import readers_of
from edgevit.submodels.nesting import Nesting, Widths, nesting_of

#: Of a place, a width or what stands in for its branch; None where that stays.
Form = int | Replacement | None


@dataclass(frozen=True)
class InFloat:
    """A form of a place whose layers are left float, where without a word they are integers."""

    form: Form


#: A choice of a place.
Option = Form | InFloat


@dataclass(frozen=True)
class Place:
    """Where there is a choice: an axis, the residual branch around it, or both, and the integers in it.

    Attributes:
        axis: its name; None for a branch without one.
        branch: its name; None where nothing may stand in for it.
        options: all there are, the whole among them.
        layers: node names of the layers that are integers, but where an option leaves them float.
    """

    axis: str | None
    branch: str | None
    options: tuple[Option, ...]
    layers: tuple[str, ...] = ()

    @property
    def widths(self) -> tuple[Form, ...]:
        """The options that leave the branch what it is and layers integers, the whole last."""
        units = sorted(option for option in self.options if isinstance(option, int))
        return tuple(units) or (None,)

    @property
    def whole(self) -> Form:
        """The option that changes nothing."""
        return self.widths[-1]

    def named(self, option: Option) -> dict[str, int | Replacement]:
        """What a choice makes of a submodel, whatever its layers compute in."""
        form = form_of(option)
        if form is None:
            return {}
        name = self.branch if isinstance(form, str) else self.axis
        return {str(name): form}

    def kept_float(self, option: Option) -> tuple[str, ...]:
        """The layers that a choice leaves float."""
        return self.layers if isinstance(option, InFloat) else ()

    def option_in(self, widths: Widths, kept_float: Collection[str]) -> Option:
        """What a submodel has chosen here."""
        names = [name for name in (self.branch, self.axis) if name in widths]
        form = widths[str(names[0])] if names else self.whole
        return InFloat(form) if any(layer in kept_float for layer in self.layers) else form

    def with_layers(self, layers: Sequence[str]) -> Place:
        """The place with a choice for its layers as well, at every width; what stands in for it has none.

        Args:
            layers: node names of what is integers in it; there may be none.
        """
        floats = tuple(InFloat(form) for form in self.widths) if layers else ()
        return replace(self, options=(*floats, *self.options), layers=tuple(layers))


def form_of(option: Option) -> Form:
    """A choice without what its layers compute in."""
    return option.form if isinstance(option, InFloat) else option


def in_float(option: Option) -> InFloat:
    """A choice with its layers left float."""
    return InFloat(form_of(option))


def places_of(parent: Program, layers: Collection[str] = ()) -> tuple[Place, ...]:
    """Where the submodels of a nested Program differ, in the order of the network.

    Args:
        parent: a nested Program.
        layers: node names of those that are integers, or are left float. Each belongs to one place: that of
            the branch in which it lies, else that of the axis with the fewest layers among those that its
            weight has. Others are places of their own, behind all else, those of one branch together.
    """
    nesting, dimensions = nesting_of(parent), Dimensions(parent)
    places = list(_places(nesting, dimensions))
    return tuple(_with_layers(places, dimensions, layers)) if layers else tuple(places)


def _places(nesting: Nesting, dimensions: Dimensions) -> Iterator[Place]:
    replacements = nesting.replacements
    found = branches_of(dimensions) if replacements else {}
    left = {name: branch for name, branch in found.items() if name in replacements}
    for axis, widths in nesting.widths.items():
        readers = readers_of(dimensions, axis)
        around = next((name for name, branch in left.items() if readers <= set(branch.block.nodes)), None)
        if around is None:
            yield Place(axis, None, widths)
        else:
            del left[around]
            yield Place(axis, around, (*replacements[around], *widths))
    for name in left:
        yield Place(None, name, (*replacements[name], None))


def _with_layers(places: Sequence[Place], dimensions: Dimensions, layers: Collection[str]) -> Iterator[Place]:
    """The places with the layers that each has, then those of the layers that none has."""
    branches = branches_of(dimensions)
    left = [node.name for node in dimensions.program.graph.nodes if node.name in layers]
    owned: dict[Place, list[str]] = {place: [] for place in places}
    inside = {place: _inside(branches, place) for place in places}
    having = {place: _having(dimensions, place.axis) for place in places}
    # A branch that goes takes with it whatever lies there. An axis of many layers says little of each.
    for place, names in [*inside.items(), *sorted(having.items(), key=lambda item: len(item[1]))]:
        owned[place] += [name for name in left if name in names]
        left = [name for name in left if name not in names]
    yield from (place.with_layers(owned[place]) for place in places)
    blocks = [set(branch.block.nodes) for branch in branches.values()]
    together = [[name for name in left if name in nodes] for nodes in blocks]
    alone = [[name] for name in left if not any(name in nodes for nodes in blocks)]
    yield from (Place(None, None, (None,)).with_layers(names) for names in (*together, *alone) if names)


def _inside(branches: Mapping[str, Branch], place: Place) -> set[str]:
    """The operations of a place's branch."""
    return set() if place.branch is None else set(branches[place.branch].block.nodes)


def _having(dimensions: Dimensions, axis: str | None) -> set[str]:
    """The layers whose weight has an axis of some name."""
    leaves = [leaf for one, leaf in dimensions.axes().items() if one.name == axis]
    return {
        node.name
        for node in dimensions.program.graph.nodes
        if is_layer(node)
        and any(leaf in dim.leaves() for leaf in leaves for dim in dimensions.of[weight_of(node)])
    }
