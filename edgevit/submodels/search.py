"""Which submodel of a nested Program is best within a budget: sensitivities, an exact solution, and a repair.

Every choice of every place, a width of an axis or what stands in for a residual branch, is judged alone: the
divergence of the predictions from the parent's. Where submodels ship as integers they are judged so, and a
place may leave its layers float at any of its widths: that is one choice, and not two. Added up over places
these say which choices cost least within a budget, exactly (`edgevit.submodels.knapsack`). What is lost by
several together is not their sum, so the best few are judged as they are, and the best of these is improved
by small changes (Cai et al., Once-for-All, arXiv 1908.09791: a population that is mutated).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from edgevit.errors import EdgevitError
from edgevit.graph.predictions import divergence, predict
from edgevit.graph.program import Array, Program
from edgevit.graph.running import Runner
from edgevit.progress import track
from edgevit.submodels.branches import Replacement
from edgevit.submodels.costing import Cost
from edgevit.submodels.extraction import extract
from edgevit.submodels.knapsack import Choice, best
from edgevit.submodels.nesting import Widths
from edgevit.submodels.places import InFloat, Option, Place, in_float, places_of
from edgevit.submodels.precision import Quantizer

# Of each place, in the order of the network.
Key = tuple[Option, ...]

# Of a population, those that are changed: a quarter in Once-for-All, of its hundred.
_PARENTS = 25
# Of changes, how many may be over the budget or known before one is not.
_TRIES = 200


@dataclass(frozen=True)
class Candidate:
    """A submodel that was judged.

    Attributes:
        name: how it was found.
        widths: what it is.
        kept_float: node names of the layers that it leaves float where others are integers.
        cost: of the kind that has the budget.
        divergence: KL(parent || submodel) of the predictions, in nats; of integers, where it is to have any.
    """

    name: str
    widths: Widths
    kept_float: tuple[str, ...]
    cost: int
    divergence: float


class Search:
    """A nested Program whose submodels are judged, each once.

    Args:
        parent: a nested Program.
        images: (n, channels, height, width) float32, on which predictions are compared.
        cost: what has the budget (`edgevit.submodels.costing`).
        quantizer: of submodels that are judged as integers; None judges them as floats.
        seed: of mutations.

    Attributes:
        parent: as it was given.
        images: likewise, as a tensor.
        cost_of: as `cost` was given.
        quantizer: as it was given.
        seed: as it was given.
        places: where there is a choice, the cheapest option of each first.
    """

    def __init__(
        self,
        parent: Program,
        images: Array,
        *,
        cost: Cost,
        quantizer: Quantizer | None = None,
        seed: int = 0,
    ) -> None:
        self.parent, self.cost_of, self.quantizer, self.seed = parent, cost, quantizer, seed
        self.images = torch.from_numpy(np.ascontiguousarray(images))
        layers = () if quantizer is None else quantizer.layers
        self.places = tuple(map(self._ascending, places_of(parent, layers)))
        self._random = np.random.default_rng(seed)
        self._expected = predict(Runner(parent), self.images).double()
        self._found: dict[Key, float] = {}

    def _ascending(self, place: Place) -> Place:
        def cost(option: Option) -> int:
            return self.cost_of(place.named(option), place.kept_float(option))

        return replace(place, options=tuple(sorted(place.options, key=cost)))

    @property
    def evaluations(self) -> int:
        """How many submodels were judged."""
        return len(self._found)

    @property
    def whole(self) -> Key:
        """Everything as it is in the parent; in integers, where these are judged."""
        return tuple(place.whole for place in self.places)

    @property
    def whole_in_float(self) -> Key:
        """The same without integers, as far as there is a choice."""
        return tuple(InFloat(place.whole) if place.layers else place.whole for place in self.places)

    @property
    def cheapest(self) -> Key:
        """The cheapest option of each place."""
        return tuple(place.options[0] for place in self.places)

    def cost(self, key: Key) -> int:
        """Of a submodel."""
        return self.cost_of(self.named(key), self.kept_float(key))

    def named(self, key: Key) -> dict[str, int | Replacement]:
        """What a submodel is, whatever its layers compute in."""
        found: dict[str, int | Replacement] = {}
        for place, option in zip(self.places, key, strict=True):
            found |= place.named(option)
        return found

    def kept_float(self, key: Key) -> tuple[str, ...]:
        """The layers that a submodel leaves float."""
        pairs = zip(self.places, key, strict=True)
        return tuple(layer for place, option in pairs for layer in place.kept_float(option))

    def divergence(self, key: Key) -> float:
        """KL(parent || submodel) of the predictions, in nats; judged once."""
        if key not in self._found:
            self._found[key] = self.divergence_of(self._made(key))
        return self._found[key]

    def _made(self, key: Key) -> Program:
        small = extract(self.parent, self.named(key))
        return small if self.quantizer is None else self.quantizer(small, self.kept_float(key))

    def divergence_of(self, program: Program) -> float:
        """KL(parent || program) of the predictions, in nats."""
        return float(divergence(self._expected, predict(Runner(program), self.images).double()))

    def candidate(self, name: str, key: Key) -> Candidate:
        """A submodel with what was judged of it."""
        return Candidate(name, self.named(key), self.kept_float(key), self.cost(key), self.divergence(key))

    def solve(self, budget: int, *, count: int = 8) -> list[Key]:
        """The submodels of the least sum of sensitivities within a budget, the best first.

        Raises:
            EdgevitError: when the smallest submodel costs more.
        """
        least = self.cost(self.cheapest)
        if least > budget:
            raise EdgevitError(
                f"the budget of {budget:,} cannot be met: the smallest submodel of {self.parent.card.name} "
                f"has {least:,}, {least - budget:,} more"
            )
        found = best(self._choices, max(budget - self._fixed, 0), count=count)
        keys = [
            tuple(place.options[index] for place, index in zip(self.places, one.chosen, strict=True))
            for one in found
        ]
        # Costs are counted by place and rounded; what is over by that is not taken.
        return [key for key in keys if self.cost(key) <= budget] or [self.cheapest]

    @functools.cached_property
    def _saved(self) -> list[list[int]]:
        """What each option saves of the whole when it is taken alone."""
        whole = self.cost(self.whole)
        return [
            [whole - self.cost(self._with(self.whole, index, option)) for option in place.options]
            for index, place in enumerate(self.places)
        ]

    @property
    def _fixed(self) -> int:
        """What stays when the cheapest option is taken everywhere."""
        return self.cost(self.whole) - sum(map(max, self._saved))

    @functools.cached_property
    def _choices(self) -> list[list[Choice]]:
        """What each option costs above the cheapest of its place, and its sensitivity.

        Integers are judged among floats: the errors of several places then add up as far as they have nothing
        to do with each other, where among integers each is lost in the errors of all others.
        """
        return [
            [
                Choice(max(savings) - saving, self.divergence(self._with(self.whole_in_float, index, option)))
                for option, saving in zip(place.options, savings, strict=True)
            ]
            for index, (place, savings) in enumerate(
                zip(track(self.places, "judging choices", len(self.places)), self._saved, strict=True)
            )
        ]

    def uniform(self, budget: int) -> Key | None:
        """The widest submodel whose axes all have the same rank among their widths; None where none fits."""
        fitting = [key for key in map(self._level, range(self._steps)) if self.cost(key) <= budget]
        return max(fitting, key=self.cost, default=None)

    def mixed(self, budget: int, *, rising: bool) -> Key | None:
        """MatFormer's Mix'n'Match: two neighbouring widths, the wider in the last axes, or in the first."""
        found = []
        for level in range(self._steps - 1):
            narrow, wide = self._level(level), self._level(level + 1)
            for cut in range(len(narrow) + 1):
                first, second = (narrow, wide) if rising else (wide, narrow)
                found.append((*first[:cut], *second[cut:]))
        return max((key for key in found if self.cost(key) <= budget), key=self.cost, default=None)

    def evolve(self, start: Iterable[Key], budget: int, *, evaluations: int) -> Key:
        """The best submodel after so many more were judged, each a small change of one of the best.

        Args:
            start: submodels within the budget, one at least.
            budget: what each may cost.
            evaluations: how many to judge besides, at most.
        """
        population = {key: self.divergence(key) for key in start}
        for _ in track(range(evaluations), "judging changes", evaluations):
            changed = self._changed(population, budget)
            if changed is None:
                break
            population[changed] = self.divergence(changed)
        return min(population, key=lambda key: population[key])

    def _changed(self, population: Mapping[Key, float], budget: int) -> Key | None:
        """A small change of one of the best that is none of them; None where so many tries give none."""
        parents = sorted(population, key=lambda key: population[key])[:_PARENTS]
        for _ in range(_TRIES):
            changed = self._mutated(parents[self._random.integers(len(parents))], budget)
            if changed is not None and changed not in population:
                return changed
        return None

    def any_within(self, budget: int, count: int) -> list[Key]:
        """Submodels drawn by chance, each as wide as the budget allows on the way that was drawn."""
        return [self._filled(self.cheapest, budget) for _ in range(count)]

    def _mutated(self, key: Key, budget: int) -> Key | None:
        """Another option in one or two places, then dearer ones while there is room; None over the budget."""
        found = key
        count = min(len(key), 1 + int(self._random.integers(2)))
        for index in self._random.choice(len(key), size=count, replace=False).tolist():
            options = self.places[index].options
            found = self._with(found, index, options[int(self._random.integers(len(options)))])
        if self.cost(found) > budget:
            return None
        return self._filled(found, budget)

    def _filled(self, key: Key, budget: int) -> Key:
        """Dearer options in an order of places that is drawn, as far as the budget goes; then floats.

        What is wider and what is float are not weighed against each other here: a narrow place in floats may
        be dearer than a wide one in integers, and worse.
        """
        order = self._random.permutation(len(key)).tolist()
        for index in order:
            options, kind = self.places[index].options, isinstance(key[index], InFloat)
            dearer = [
                self._with(key, index, option)
                for option in options[options.index(key[index]) + 1 :]
                if isinstance(option, InFloat) == kind
            ]
            key = next((found for found in reversed(dearer) if self.cost(found) <= budget), key)
        for index in order:
            option = in_float(key[index])
            if option in self.places[index].options:
                found = self._with(key, index, option)
                key = found if self.cost(found) <= budget else key
        return key

    @property
    def _steps(self) -> int:
        return max(len(place.widths) for place in self.places)

    def _level(self, level: int) -> Key:
        return tuple(place.widths[min(level, len(place.widths) - 1)] for place in self.places)

    @staticmethod
    def _with(key: Key, index: int, option: Option) -> Key:
        return (*key[:index], option, *key[index + 1 :])


def within(search: Search, budget: int, *, solutions: int = 8, evaluations: int = 64) -> list[Candidate]:
    """The best submodel within a budget, and what simpler ways find, the best first.

    Args:
        search: of a nested Program.
        budget: of the kind of cost that the search is of.
        solutions: of the sum of sensitivities, how many are judged as they are.
        evaluations: of changes to the best of them.

    Returns:
        "search", "evolution" (from submodels drawn by chance, with as many evaluations as the search took)
        and, as far as the budget allows them, "uniform", "rising" and "falling" (Mix'n'Match both ways).

    Raises:
        EdgevitError: when the smallest submodel costs more.
    """
    solved = search.solve(budget, count=solutions)
    found = search.evolve(solved, budget, evaluations=evaluations)
    spent = search.evaluations
    others = Search(
        search.parent,
        search.images.numpy(),
        cost=search.cost_of,
        quantizer=search.quantizer,
        seed=search.seed,
    )
    drawn = others.any_within(budget, min(spent, 4 * _PARENTS))
    evolved = others.evolve(drawn, budget, evaluations=max(0, spent - others.evaluations))
    simple = {
        "uniform": search.uniform(budget),
        "rising": search.mixed(budget, rising=True),
        "falling": search.mixed(budget, rising=False),
    }
    candidates = [search.candidate("search", found), others.candidate("evolution", evolved)]
    candidates += [search.candidate(name, key) for name, key in simple.items() if key is not None]
    return sorted(candidates, key=lambda one: one.divergence)


def frontier(search: Search, *, steps: int = 8) -> list[Candidate]:
    """The best submodels at budgets between the cheapest and the whole, and what simpler ways find there.

    Args:
        search: of a nested Program.
        steps: how many budgets, evenly spaced.

    Returns:
        "sensitivities", the least sum of them, "uniform", "rising" and "falling", the cheapest first; none
        twice.
    """
    least, most = search.cost(search.cheapest), max(map(search.cost, (search.whole, search.whole_in_float)))
    found: dict[tuple[str, Key], None] = {}
    for budget in np.linspace(least, most, steps).astype(int).tolist():
        ways = {
            "sensitivities": search.solve(budget, count=1)[0],
            "uniform": search.uniform(budget),
            "rising": search.mixed(budget, rising=True),
            "falling": search.mixed(budget, rising=False),
        }
        found |= dict.fromkeys((name, key) for name, key in ways.items() if key is not None)
    judged = [search.candidate(name, key) for name, key in track(found, "judging the frontier", len(found))]
    return sorted(judged, key=lambda one: (one.name, one.cost))
