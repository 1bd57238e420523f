"""Times of single operators, by the profilers that runtimes have."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any, Callable  # noqa: UP035 - devices in the field run older Pythons

# The first runs of a session allocate and pack; so many runs, or so many seconds, of those after them.
_WARM_UP, _RUNS, _SECONDS = 5, 30, 6.0

# They give their input another shape, and move nothing: what their times show is nearly all the profiler's.
_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten"})
_FEWEST_VIEWS = 3
# Nodes of the chain that shows what one of them takes by itself.
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

    The profiler spells out the shapes of each node before it stops that node's clock: some microseconds,
    more than a small node takes. They are measured on nodes that only change a shape.

    Args:
        plain: the session that was timed.
        session: opens another with settings.
        chain: opens a chain of `CHAIN` nodes that only change a shape with settings.
        clock: nanoseconds, of whole runs.
        pace: something else that takes turns with them, to tell by how fast the device is at the time.

    Returns:
        What `node_times` does; ``whole_us`` of a run without the profiler; ``pace_us``, None without a pace.
    """
    alone, views, _ = _in_turns(chain(), chain, clock, None)
    outside = sorted(middle_mean(values) for values in _durations(views).values())
    whole, events, pace_us = _in_turns(plain, session, clock, pace)
    return {**node_times(events, alone / CHAIN, outside), "whole_us": whole, "pace_us": pace_us}


def _in_turns(
    plain: OnnxSession, session: Callable[..., OnnxSession], clock: Callable[[], int], pace: Runner | None
) -> tuple[float, list[dict[str, Any]], float | None]:
    """Microseconds of a run without the profiler, what it says of the nodes in runs with it, and the pace."""
    with tempfile.TemporaryDirectory() as folder:
        profiled = session(enable_profiling=True, profile_file_prefix=str(Path(folder) / "nodes"))
        whole, paces, started = [], [], time.perf_counter()
        for _ in range(_WARM_UP + _RUNS):
            whole.append(settled_us(plain.run, clock))
            # Likewise the second in a row.
            profiled.run()
            profiled.run()
            if pace is not None:
                paces.append(settled_us(pace, clock))
            if time.perf_counter() - started > _SECONDS:
                break
        return middle_mean(whole), profiled.events(), middle_mean(paces) if paces else None


def settled_us(run: Runner, clock: Callable[[], int]) -> float:
    """Microseconds of a run; of the second in a row, for what ran before left the caches to itself."""
    run()
    before = clock()
    run()
    return (clock() - before) / 1e3


def node_times(events: list[dict[str, Any]], view_us: float, outside: list[float]) -> dict[str, Any]:
    """Nodes in the order they ran, each with its kind, what ran it and its microseconds.

    Args:
        events: of the profiler's file, those of nodes.
        view_us: what a node that only changes a shape takes without the profiler.
        outside: what such nodes take with it, in a model of nothing else.

    Returns:
        ``operators``, rows of (name, kind, provider, microseconds); ``shapes`` of their inputs and of their
        outputs, each a type and sizes; and ``cost_us``, which the profiler added to each and which is no
        longer in them.
    """
    shapes = {_name(event): [_shapes(event, "input"), _shapes(event, "output")] for event in events}
    kinds = {_name(event): (event["args"]["op_name"], event["args"]["provider"]) for event in events}
    means = {name: middle_mean(values) for name, values in _durations(events).items()}
    views = sorted(value for name, value in means.items() if kinds[name][0] in _VIEWS)
    # Among a model's other nodes caches are colder, the profiler's and the node's own alike.
    alone = _lower_quartile(outside)
    own = min(view_us / alone, 1.0) if alone else 0.0
    cost = _lower_quartile(views if len(views) >= _FEWEST_VIEWS else outside) * (1 - own)
    rows = [[name.partition("\0")[0], *kinds[name], max(0.0, value - cost)] for name, value in means.items()]
    return {"operators": rows, "shapes": [shapes[name] for name in means], "cost_us": cost}


def _lower_quartile(ordered: list[float]) -> float:
    """Of nodes that only change a shape, which some do by copying."""
    return ordered[len(ordered) // 4]


def _shapes(event: dict[str, Any], side: str) -> list[Any]:
    """Types and sizes of what a node reads or gives; weights that were packed are not among them."""
    return [
        [kind, sizes] for each in event["args"].get(side + "_type_shape", []) for kind, sizes in each.items()
    ]


def _durations(events: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Microseconds of each node in every second run."""
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
