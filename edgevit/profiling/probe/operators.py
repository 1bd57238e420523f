"""Times of single operators, by the profilers that runtimes have."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any, Callable  # noqa: UP035 - devices in the field run older Pythons

# The first runs of a session allocate and pack; so many runs, or so many seconds, of those after them.
_WARM_UP, _RUNS, _SECONDS = 5, 30, 6.0

# Nodes of the chain that shows the profiler at work.
CHAIN = 200


# What an operator takes of which a clock of whole microseconds shows nothing: the least, and what is usual.
_LEAST_US, _SHORT_US, _SHORT_SPREAD = 0.05, 0.3, 0.2
# Of a sum of measured times.
_DOUBT = 0.03


Runner = Callable[[], Any]


class OnnxSession:
    """An open session of ONNX Runtime with what it is fed."""

    def __init__(self, session: Any, feed: dict[str, Any]) -> None:
        self._session, self._feed = session, feed

    def run(self) -> None:
        """Run it once."""
        self._session.run(None, self._feed)

    def events(self) -> list[dict[str, Any]]:
        """What its profiler has written of nodes; it stops."""
        text = Path(self._session.end_profiling()).read_text(encoding="utf-8")
        return [event for event in json.loads(text) if event.get("cat") == "Node"]


def onnx_operators(
    plain: OnnxSession,
    session: Callable[..., OnnxSession],
    chain: Callable[..., OnnxSession],
    clock: Callable[[], int],
    pace: Runner | None = None,
) -> dict[str, Any]:
    """Microseconds of each node, by ONNX Runtime's own profiler, in a session of its own.

    It takes turns with the session without the profiler, which gives the whole that the sum is compared
    with: both meet the same clock, heat and neighbours.

    The profiler spells out the shapes of each node, in part before it stops that node's clock: some
    microseconds, more than a small node takes. What it adds to a run is measured on this very model, by runs
    with it and without; which part of that is in the times of nodes, on a chain of nodes that take next to
    nothing themselves.

    Args:
        plain: the session that was timed.
        session: opens another with settings.
        chain: opens a chain of `CHAIN` nodes that only change a shape with settings.
        clock: nanoseconds, of whole runs.
        pace: something else that takes turns with them, to tell by how fast the device is at the time.

    Returns:
        What `node_times` does; ``whole_us`` of a run without the profiler; ``pace_us``, None without a pace.
    """
    links, _ = _in_turns(chain(), chain, clock, None)
    turns, pace_us = _in_turns(plain, session, clock, pace)
    return {**node_times(turns, inside(links)), "whole_us": turns.alone, "pace_us": pace_us}


class Turns:
    """Runs of one model with the profiler and without.

    Attributes:
        alone: microseconds of a run without it.
        profiled: of one with it.
        events: what it says of nodes, in the runs that were timed and in one before each.
    """

    def __init__(self, alone: float, profiled: float, events: list[dict[str, Any]]) -> None:
        self.alone, self.profiled, self.events = alone, profiled, events


def _in_turns(
    plain: OnnxSession, session: Callable[..., OnnxSession], clock: Callable[[], int], pace: Runner | None
) -> tuple[Turns, float | None]:
    """The turns, and microseconds of the pace."""
    with tempfile.TemporaryDirectory() as folder:
        profiled = session(enable_profiling=True, profile_file_prefix=str(Path(folder) / "nodes"))
        whole, slowed, paces, started = [], [], [], time.perf_counter()
        for _ in range(_WARM_UP + _RUNS):
            whole.append(settled_us(plain.run, clock))
            slowed.append(settled_us(profiled.run, clock))
            if pace is not None:
                paces.append(settled_us(pace, clock))
            if time.perf_counter() - started > _SECONDS:
                break
        turns = Turns(middle_mean(whole), middle_mean(slowed), profiled.events())
        return turns, middle_mean(paces) if paces else None


def settled_us(run: Runner, clock: Callable[[], int]) -> float:
    """Microseconds of a run; of the second in a row, for what ran before left the caches to itself."""
    run()
    before = clock()
    run()
    return (clock() - before) / 1e3


def inside(links: Turns) -> float:
    """Of what the profiler adds the share that is in nodes' times, by nodes that take next to nothing."""
    added = links.profiled - links.alone
    shown = sum(middle_mean(values) for values in _durations(links.events).values())
    return min(max((shown - links.alone) / added, 0.0), 1.0) if added > 0 else 0.0


def node_times(turns: Turns, share: float) -> dict[str, Any]:
    """Nodes in the order they ran, each with its kind, what ran it and its microseconds.

    Args:
        turns: of the model.
        share: of what the profiler adds that is in the times of nodes.

    Returns:
        ``operators``, rows of (name, kind, provider, microseconds); ``shapes`` of their inputs and of their
        outputs, each a type and sizes; and ``cost_us``, which the profiler added to each and which is no
        longer in them.
    """
    events = turns.events
    shapes = {_name(event): [_shapes(event, "input"), _shapes(event, "output")] for event in events}
    kinds = {_name(event): (event["args"]["op_name"], event["args"]["provider"]) for event in events}
    means = {name: middle_mean(values) for name, values in _durations(events).items()}
    cost = max(0.0, share * (turns.profiled - turns.alone) / len(means))
    rows = [[name.partition("\0")[0], *kinds[name], max(0.0, value - cost)] for name, value in means.items()]
    return {"operators": rows, "shapes": [shapes[name] for name in means], "cost_us": cost}


def _shapes(event: dict[str, Any], side: str) -> list[Any]:
    """Types and sizes of what a node reads or gives; weights that were packed are not among them."""
    return [
        [kind, sizes] for each in event["args"].get(side + "_type_shape", []) for kind, sizes in each.items()
    ]


def _durations(events: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Microseconds of each node in every second run, which is the one that was timed."""
    found: dict[str, list[float]] = {}
    for event in events:
        found.setdefault(_name(event), []).append(float(event["dur"]))
    return {name: times[1::2] for name, times in found.items()}


def _name(event: dict[str, Any]) -> str:
    """A node's name and its place: of one name and another place, it is another node."""
    name: str = event["name"].rpartition("_kernel_time")[0] or event["name"]
    return name + "\0" + str(event["args"].get("node_index", ""))


def middle_mean(values: list[float]) -> float:
    """Mean of the middle half after the warm-up.

    Times are whole microseconds, for which a median is too coarse; what a scheduler did to some of the runs
    is not the operator's, and would be in a mean of all.
    """
    # Slow runs may have been stopped before the warm-up was over.
    kept = sorted(values[_WARM_UP:] or values[-1:])
    quarter = len(kept) // 4
    kept = kept[quarter : len(kept) - quarter]
    return sum(kept) / len(kept)


def litert_operators(
    plain: Runner, profiled: Any, clock: Callable[[], int], pace: Runner | None = None
) -> dict[str, Any]:
    """Microseconds of each operator, by LiteRT's own profiler, in turns with the interpreter without it.

    Args:
        plain: a run of the interpreter.
        profiled: a `ProfiledModel` of the same file.
        clock: nanoseconds, of whole runs.
        pace: something else that takes turns with them.

    Returns:
        ``operators``, ``cost_us``, ``whole_us`` and ``pace_us`` as of ONNX Runtime; it reads a clock between
        operators and no more, so that the cost is 0.
    """
    names: list[tuple[str, str, str]] = []
    whole, paces, each, started = [], [], [], time.perf_counter()
    for _ in range(_WARM_UP + _RUNS):
        whole.append(settled_us(plain, clock))
        profiled.run()
        names, times = profiled.profiled()
        each.append(times)
        if pace is not None:
            paces.append(settled_us(pace, clock))
        if time.perf_counter() - started > _SECONDS:
            break
    whole_us = middle_mean(whole)
    means = uncut([middle_mean(list(times)) for times in zip(*each)], whole_us)  # noqa: B905 - Python 3.8
    return {
        "operators": [[*name, mean] for name, mean in zip(names, means)],  # noqa: B905
        "cost_us": 0.0,
        "whole_us": whole_us,
        "pace_us": middle_mean(paces) if paces else None,
    }


def uncut(times: list[float], whole: float) -> list[float]:
    """Times that were each cut to whole microseconds, with what that took.

    Of a longer one that is half a microsecond on the mean. One of less than a microsecond shows none, in
    however many runs. What the whole has more belongs to those together; how much that says hangs on how much
    else is in the whole: it is weighed against what such operators take by experience, as errors of normal
    distributions are.

    Args:
        times: microseconds of each operator.
        whole: of a run.
    """
    longer = [value + 0.5 for value in times if value >= 1]
    short = len(times) - len(longer)
    doubt = max(_DOUBT * sum(longer), 1.0)
    known, told = 1 / _SHORT_SPREAD**2, short / doubt**2
    each = (known * _SHORT_US + told * (whole - sum(longer))) / (known + told * short)
    return [value + 0.5 if value >= 1 else value + min(max(each, _LEAST_US), 1.0) for value in times]


def opencv_operators(cv2: Any, net: Any, names: Any) -> dict[str, Any]:
    """Microseconds of each layer as OpenCV's dnn counts them on every run."""
    runs = []
    for _ in range(_RUNS):
        net.forward(names)
        runs.append([float(ticks) for ticks in net.getPerfProfile()[1]])
    totals = [sum(ticks) for ticks in zip(*runs)]  # noqa: B905 - Python 3.8
    layers = net.getLayerNames()
    if len(layers) != len(totals):
        return {"reason": "OpenCV's profile and its list of layers are of different lengths"}
    scale = 1e6 / cv2.getTickFrequency() / _RUNS
    rows = [
        [name, net.getLayer(name).type, "CPU", total * scale]
        for name, total in zip(layers, totals)  # noqa: B905 - Python 3.8
    ]
    return {"operators": rows, "cost_us": 0.0, "whole_us": None}
