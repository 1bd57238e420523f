"""Parts of a class-wise ensemble on hosts: min-max generalised assignment, exactly, by integer programming.

What is asked goes to every host that has a part; each runs its parts one after another and sends their
features to where the answer is wanted. The published way, largest first, is in `edgevit.pruning.assignment`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgevit.planning.pipelines import Certificate, Prediction, Transfer, busy_seconds
from edgevit.planning.placing import PlacementProgram
from edgevit.planning.problem import Ensemble, Host, Objective, Problem

#: Of a search, at most; what was found until then is given with its bound.
SECONDS = 60.0

# The solver's tolerance, and a unit of cost for which it is fine enough.
_TOLERANCE = 1e-6
_FINE = 0.01


@dataclass(frozen=True)
class Placement:
    """Parts on hosts.

    Attributes:
        hosts: of each part, in the order of the parts.
        prediction: what they are predicted to do together.
        certificate: of the objective that was asked for.
    """

    hosts: tuple[str, ...]
    prediction: Prediction
    certificate: Certificate


def best_placement(ensemble: Ensemble, objective: Objective, seconds: float = SECONDS) -> Placement | None:
    """The placement that is best for an objective.

    Args:
        ensemble: what is placed.
        objective: what is to be low.
        seconds: of the search, at most.

    Returns:
        None where the hosts have no room for the parts.

    Raises:
        EdgevitError: for energy, where a host does not say what it takes; where nothing was found in time.
    """
    unit = _unit(ensemble, objective)
    program = PlacementProgram(_in_units(ensemble, unit))
    program.minimise(objective)
    while True:
        solved = program.solved(seconds)
        if solved is None:
            return None
        hosts, bound = solved
        # The solver takes a millionth too much for enough.
        full = next((host for host in ensemble.problem.hosts if _too_many_bytes(ensemble, hosts, host)), None)
        if full is None:
            break
        program.forbid_together([part for part, name in enumerate(hosts) if name == full.name], full)
    prediction = predict(ensemble, hosts)
    value, bound = prediction.of(objective), bound * unit
    proven = value - bound <= _TOLERANCE * value
    return Placement(hosts, prediction, Certificate(value, value if proven else min(bound, value)))


def _unit(ensemble: Ensemble, objective: Objective) -> float:
    """What costs are measured in for the solver, whose tolerances are absolute: there are to be many."""
    per_host = [
        host.joules if objective == "energy" and host.joules is not None else host.seconds
        for host in ensemble.problem.hosts
    ]
    least = [min(values) for values in zip(*per_host, strict=True)]
    return _FINE * sum(value for value in least if value < float("inf")) / len(least) or 1.0


def _in_units(ensemble: Ensemble, unit: float) -> Ensemble:
    """The same with seconds and joules in another unit."""
    problem = ensemble.problem
    hosts = tuple(
        replace(
            host,
            seconds=tuple(value / unit for value in host.seconds),
            bandwidth=host.bandwidth * unit,
            latency=host.latency / unit,
            joules=None if host.joules is None else tuple(value / unit for value in host.joules),
            joules_per_byte=host.joules_per_byte / unit,
        )
        for host in problem.hosts
    )
    media = tuple(replace(medium, bandwidth=medium.bandwidth * unit) for medium in problem.media)
    return replace(
        ensemble,
        problem=replace(problem, hosts=hosts, media=media),
        fusion_seconds=ensemble.fusion_seconds / unit,
    )


def why_impossible(ensemble: Ensemble) -> str:
    """What memory lacks at the least, in a sentence that begins with its name."""
    program = PlacementProgram(ensemble, roomy=True)
    program.minimise_lacking()
    solved = program.solved(SECONDS)
    if solved is None:
        return "seconds: there is a sub-model that no device can run; add a device that can"
    hosts, lacking = solved[0], 0.0
    worst: tuple[float, Host] | None = None
    for host in ensemble.problem.hosts:
        many = _too_many_bytes(ensemble, hosts, host)
        lacking += many
        worst = max(worst or (many, host), (many, host), key=lambda pair: pair[0])
    if worst is None:
        raise ValueError("no hosts")
    many, host = worst
    return (
        f"memory: however the {len(hosts)} sub-models are placed, {lacking:,.0f} bytes are lacking at the "
        f"least ({host.name} would need {host.memory_bytes + many:,.0f} and has {host.memory_bytes:,.0f}); "
        "prune them further, or add a device"
    )


def _too_many_bytes(ensemble: Ensemble, hosts: Sequence[str], host: Host) -> float:
    own = [s for s, name in zip(ensemble.problem.chain.segments, hosts, strict=True) if name == host.name]
    needed = sum(s.weight_bytes for s in own) + max((s.peak_bytes for s in own), default=0.0)
    return max(needed - host.memory_bytes, 0.0)


# --- what a placement does ------------------------------------------------------------------------------


def predict(ensemble: Ensemble, hosts: Sequence[str]) -> Prediction:
    """What a placement is predicted to do.

    Latency: all hosts get what is asked, then all compute, then all features arrive; transfers on the same
    line one after another.

    Args:
        ensemble: what is placed.
        hosts: of each part.
    """
    problem = ensemble.problem
    computing = computing_of(ensemble, hosts)
    asked, answered = transfers_of(ensemble, hosts)
    lines = busy_seconds(problem, [*asked, *answered])
    bottleneck = max([*computing.values(), *lines.values(), ensemble.fusion_seconds])
    latency = (
        arrival(problem, asked)
        + max(computing.values())
        + arrival(problem, answered)
        + ensemble.fusion_seconds
    )
    return Prediction(bottleneck, latency, _joules(ensemble, hosts, [*asked, *answered]))


def computing_of(ensemble: Ensemble, hosts: Sequence[str]) -> dict[str, float]:
    """Seconds for which each host that has a part computes for one item."""
    seconds: dict[str, float] = {}
    for part, name in enumerate(hosts):
        seconds[name] = seconds.get(name, 0.0) + ensemble.problem.host(name).seconds[part]
    return seconds


def transfers_of(ensemble: Ensemble, hosts: Sequence[str]) -> tuple[list[Transfer], list[Transfer]]:
    """For one item: what is asked, to each host that has a part; and the features, from it."""
    problem, source, sink = ensemble.problem, ensemble.problem.source, ensemble.problem.sink
    used = [host.name for host in problem.hosts if host.name in hosts]
    features = dict.fromkeys(used, 0.0)
    for size, name in zip(ensemble.sent_bytes, hosts, strict=True):
        features[name] += size
    asked, answered = [], []
    if source is not None:
        asked = [Transfer(source, name, ensemble.asked_bytes) for name in used if name != source]
    if sink is not None:
        answered = [Transfer(name, sink, features[name]) for name in used if name != sink]
    return asked, answered


def arrival(problem: Problem, transfers: Sequence[Transfer]) -> float:
    """Seconds until everything has arrived."""
    pairs = [(problem.host(t.sender), problem.host(t.receiver)) for t in transfers]
    latest = max((sender.latency + receiver.latency for sender, receiver in pairs), default=0.0)
    return latest + max(busy_seconds(problem, transfers).values(), default=0.0)


def _joules(ensemble: Ensemble, hosts: Sequence[str], transfers: Sequence[Transfer]) -> float | None:
    total = 0.0
    for part, name in enumerate(hosts):
        joules = ensemble.problem.host(name).joules
        if joules is None:
            return None
        total += joules[part]
    for transfer in transfers:
        both = ensemble.problem.host(transfer.sender), ensemble.problem.host(transfer.receiver)
        total += transfer.bytes * sum(host.joules_per_byte for host in both)
    return total
