"""Which submodel of a nested Program is best within a budget: sensitivities, an exact solution, and a repair.

Every axis at every width is judged alone: the divergence of the predictions from the parent's. Added up over
axes these say which widths cost least within a budget, exactly (`edgevit.submodels.knapsack`). What is lost
by several axes together is not their sum, so the best few are judged as they are, and the best of these is
improved by small changes (Cai et al., Once-for-All, arXiv 1908.09791: a population that is mutated).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from edgevit.errors import EdgevitError
from edgevit.graph.axes import Dimensions
from edgevit.graph.costs import Costs
from edgevit.graph.predictions import divergence, predict
from edgevit.graph.program import Array, Program
from edgevit.graph.running import Runner
from edgevit.progress import track
from edgevit.submodels.extraction import extract
from edgevit.submodels.knapsack import Choice, Solution, best
from edgevit.submodels.nesting import nesting_of

Cost = Literal["macs", "parameters"]

# The widths of every axis, in the order of the network.
Key = tuple[int, ...]

# Of a population, those that are changed: a quarter in Once-for-All, of its hundred.
_PARENTS = 25
# Of changes, how many may be none or known for each that is judged.
_TRIES = 50


@dataclass(frozen=True)
class Candidate:
    """A submodel that was judged.

    Attributes:
        name: how it was found.
        widths: of each axis.
        cost: of the kind that has the budget.
        divergence: KL(parent || submodel) of the predictions, in nats.
    """

    name: str
    widths: Mapping[str, int]
    cost: int
    divergence: float


class Search:
    """A nested Program whose submodels are judged, each once.

    Args:
        parent: a nested Program.
        images: (n, channels, height, width) float32, on which predictions are compared.
        cost: what the budget is of: multiply-accumulates for one image, or stored numbers.
        seed: of mutations.

    Attributes:
        parent: as it was given.
        images: likewise, as a tensor.
        of: the kind of cost.
        seed: as it was given.
        widths: at which each axis is nested, in the order of the network.
    """

    def __init__(self, parent: Program, images: Array, *, cost: Cost = "macs", seed: int = 0) -> None:
        self.parent, self.of, self.seed = parent, cost, seed
        self.images = torch.from_numpy(np.ascontiguousarray(images))
        self.widths = dict(nesting_of(parent).widths)
        self._allowed = list(self.widths.values())
        dimensions = Dimensions(parent)
        leaves = {axis.name: leaf for axis, leaf in dimensions.axes().items()}
        self._leaves = [leaves[name] for name in self.widths]
        costs = Costs(dimensions)
        self._counted = {"macs": costs.macs, "parameters": costs.parameters}[cost]
        self._random = np.random.default_rng(seed)
        self._expected = predict(Runner(parent), self.images).double()
        self._found: dict[Key, float] = {}

    @property
    def evaluations(self) -> int:
        """How many submodels were judged."""
        return len(self._found)

    @property
    def whole(self) -> Key:
        """Every axis as wide as it is."""
        return tuple(allowed[-1] for allowed in self._allowed)

    def cost(self, key: Key) -> int:
        """Of a submodel."""
        return int(
            self._counted({leaf: torch.arange(width) for leaf, width in zip(self._leaves, key, strict=True)})
        )

    def divergence(self, key: Key) -> float:
        """KL(parent || submodel) of the predictions, in nats; judged once."""
        if key not in self._found:
            self._found[key] = self.divergence_of(extract(self.parent, self._named(key)))
        return self._found[key]

    def divergence_of(self, program: Program) -> float:
        """KL(parent || program) of the predictions, in nats."""
        return float(divergence(self._expected, predict(Runner(program), self.images).double()))

    def candidate(self, name: str, key: Key) -> Candidate:
        """A submodel with what was judged of it."""
        return Candidate(name, self._named(key), self.cost(key), self.divergence(key))

    def solve(self, budget: int, *, count: int = 8) -> list[Key]:
        """The submodels of the least sum of sensitivities within a budget, the best first.

        Raises:
            EdgevitError: when the smallest submodel costs more.
        """
        whole = self.cost(self.whole)
        saved = [
            [whole - self.cost(self._with(self.whole, place, width)) for width in allowed]
            for place, allowed in enumerate(self._allowed)
        ]
        groups = [
            [
                Choice(max(savings) - saving, self.divergence(self._with(self.whole, place, width)))
                for width, saving in zip(allowed, savings, strict=True)
            ]
            for place, (allowed, savings) in enumerate(
                zip(track(self._allowed, "judging widths", len(self._allowed)), saved, strict=True)
            )
        ]
        # What stays when every axis is at its narrowest.
        fixed = whole - sum(map(max, saved))
        if fixed > budget:
            raise EdgevitError(
                f"the budget of {budget:,} cannot be met: the smallest submodel of {self.parent.card.name} "
                f"has {fixed:,}, {fixed - budget:,} more"
            )
        found = [self._chosen(solution) for solution in best(groups, budget - fixed, count=count)]
        # Costs are counted by axis and rounded; what is over by that is not taken.
        return [key for key in found if self.cost(key) <= budget] or [self._level(0)]

    def uniform(self, budget: int) -> Key | None:
        """The widest submodel whose axes all have the same place among their widths; None where none fits."""
        steps = max(map(len, self._allowed))
        fitting = [key for key in map(self._level, range(steps)) if self.cost(key) <= budget]
        return max(fitting, key=self.cost, default=None)

    def mixed(self, budget: int, *, rising: bool) -> Key | None:
        """MatFormer's Mix'n'Match: two neighbouring widths, the wider in the last axes, or in the first."""
        steps = max(map(len, self._allowed))
        found = []
        for level in range(steps - 1):
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
            evaluations: how many to judge besides; fewer where no change is new.
        """
        population = {key: self.divergence(key) for key in start}
        limit = self.evaluations + evaluations
        tries = 0
        while self.evaluations < limit and tries < _TRIES * evaluations:
            tries += 1
            parents = sorted(population, key=lambda key: population[key])[:_PARENTS]
            changed = self._mutated(parents[self._random.integers(len(parents))], budget)
            if changed is not None and changed not in population:
                population[changed] = self.divergence(changed)
        return min(population, key=lambda key: population[key])

    def any_within(self, budget: int, count: int) -> list[Key]:
        """Submodels drawn by chance, each as wide as the budget allows on the way that was drawn."""
        return [self._filled(self._level(0), budget) for _ in range(count)]

    def _mutated(self, key: Key, budget: int) -> Key | None:
        """One or two axes of another width, then others wider while there is room; None over the budget."""
        found = key
        count = min(len(key), 1 + int(self._random.integers(2)))
        for place in self._random.choice(len(key), size=count, replace=False).tolist():
            allowed = self._allowed[place]
            found = self._with(found, place, allowed[int(self._random.integers(len(allowed)))])
        if self.cost(found) > budget:
            return None
        return self._filled(found, budget)

    def _filled(self, key: Key, budget: int) -> Key:
        """Axes made wider in an order that is drawn, as far as the budget goes."""
        for place in self._random.permutation(len(key)).tolist():
            wider = [self._with(key, place, width) for width in self._allowed[place] if width > key[place]]
            key = next((found for found in reversed(wider) if self.cost(found) <= budget), key)
        return key

    def _level(self, level: int) -> Key:
        return tuple(allowed[min(level, len(allowed) - 1)] for allowed in self._allowed)

    def _named(self, key: Key) -> dict[str, int]:
        return dict(zip(self.widths, key, strict=True))

    def _chosen(self, solution: Solution) -> Key:
        return tuple(allowed[index] for allowed, index in zip(self._allowed, solution.chosen, strict=True))

    @staticmethod
    def _with(key: Key, place: int, width: int) -> Key:
        return (*key[:place], width, *key[place + 1 :])


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
    others = Search(search.parent, search.images.numpy(), cost=search.of, seed=search.seed)
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
