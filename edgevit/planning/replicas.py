"""Items divided among hosts that each run the whole model: the shares that keep the busiest least busy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgevit.planning.pipelines import (
    Certificate,
    Pipeline,
    Prediction,
    busy_seconds,
    singles,
    transfers_of,
)
from edgevit.planning.problem import Problem
from edgevit.planning.routes import Costs
from edgevit.planning.tables import Kind

# A share that no item would ever come to.
_NOTHING = 1e-9


@dataclass(frozen=True)
class Replicas:
    """The whole model on several hosts.

    Attributes:
        copies: the whole on each host that gets any items.
        shares: of the items, for each; they add up to 1.
        prediction: what they do together: the latency is that of the slowest, joules are those of an item on
            average.
        certificate: of the seconds between items.
    """

    copies: tuple[Pipeline, ...]
    shares: tuple[float, ...]
    prediction: Prediction
    certificate: Certificate


@dataclass(frozen=True)
class _Group:
    """Hosts that are alike, and the whole on one of them."""

    kind: Kind
    copy: Pipeline


def best_replicas(problem: Problem) -> Replicas | None:
    """The shares with which items follow one another fastest; None where no host can run the whole.

    What loads a line, a shared medium or a host is a sum over the hosts' shares: a linear program. Hosts that
    are alike have like shares, for no other division of what they get together is better.

    Args:
        problem: what is planned; a pin leaves one host.
    """
    groups = [_Group(kind, copy) for kind, copy in singles(problem)]
    if not groups:
        return None
    loads = _loads(problem, groups)
    shares, bound = _shares(loads)
    bottleneck = float((loads @ shares).max())
    used = [(group, share) for group, share in zip(groups, shares.tolist(), strict=True) if share > 0]
    return Replicas(
        copies=tuple(copy for group, _ in used for copy in _copies(group)),
        shares=tuple(share / len(group.kind.hosts) for group, share in used for _ in group.kind.hosts),
        prediction=Prediction(
            bottleneck, max(group.copy.prediction.latency for group, _ in used), _joules(used)
        ),
        certificate=Certificate(bottleneck, min(bound, bottleneck)),
    )


def _copies(group: _Group) -> list[Pipeline]:
    (stage,) = group.copy.stages
    return [replace(group.copy, stages=(replace(stage, host=host.name),)) for host in group.kind.hosts]


def _joules(used: Sequence[tuple[_Group, float]]) -> float | None:
    total = 0.0
    for group, share in used:
        if group.copy.prediction.joules is None:
            return None
        total += share * group.copy.prediction.joules
    return total


def _loads(problem: Problem, groups: Sequence[_Group]) -> Costs:
    """(hosts, lines and media; groups), seconds for which an item keeps each busy if all go to one group."""
    busy = []
    for group in groups:
        name, count = group.kind.like.name, len(group.kind.hosts)
        of_one = busy_seconds(problem, transfers_of(problem, group.copy.stages))
        of_one["computes", name] = group.copy.stages[0].seconds
        # What is a host's own is busy with its part of the group's items, all else with all of them.
        busy.append({key: value / (count if key[1] == name else 1) for key, value in of_one.items()})
    resources = sorted({resource for of_group in busy for resource in of_group})
    return np.array([[of_group.get(resource, 0.0) for of_group in busy] for resource in resources])


def _shares(loads: Costs) -> tuple[Costs, float]:
    """Shares that add up to 1 and keep the largest load least; and that load."""
    from scipy.optimize import linprog

    count = loads.shape[1]
    # Scaled, so that the solver's tolerances are of the size of the answer.
    scale = float(loads.max(axis=0).min()) or 1.0
    found = linprog(
        [*np.zeros(count), 1.0],
        A_ub=np.hstack([loads / scale, -np.ones((len(loads), 1))]),
        b_ub=np.zeros(len(loads)),
        A_eq=[[*np.ones(count), 0.0]],
        b_eq=[1.0],
    )
    shares = np.where(found.x[:-1] > _NOTHING, found.x[:-1], 0.0)
    return shares / shares.sum(), float(found.fun) * scale
