"""Times of single operators, by the profilers that runtimes have."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any, Callable  # noqa: UP035 - devices in the field run older Pythons

from .views import chain_of_views

# The first runs of a session allocate and pack; so many runs, or so many seconds, of those after them.
_WARM_UP, _RUNS, _SECONDS = 5, 30, 6.0

# They give their input another shape, and move nothing: what their times show is nearly all the profiler's.
_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten"})
_FEWEST_VIEWS = 3
# Of a chain that shows what one of them takes by itself.
_CHAIN = 200


def onnx_operators(
    plain: Any,
    session: Callable[..., Any],
    run: Callable[[Any], Any],
    chained: Callable[[bytes], Callable[[], Any]],
) -> dict[str, Any]:
    """Microseconds of each node, by ONNX Runtime's own profiler, in a session of its own.

    It takes turns with the session without the profiler, which gives the whole that the sum is compared
    with: both meet the same clock, heat and neighbours.

    The profiler spells out the shapes of each node before it stops that node's clock: some microseconds,
    more than a small node takes. They are measured on the nodes that only change a shape.

    Args:
        plain: the session that was timed.
        session: opens another, with these settings.
        run: runs one.
        chained: opens a model of one value as it is written, and gives what runs it.
    """
    with tempfile.TemporaryDirectory() as folder:
        profiled = session(enable_profiling=True, profile_file_prefix=str(Path(folder) / "nodes"))
        view_us = _view_us(chained)
        whole, started = [], time.perf_counter()
        for _ in range(_WARM_UP + _RUNS):
            # Once without looking: the other session left the caches to itself.
            run(plain)
            before = time.perf_counter_ns()
            run(plain)
            whole.append((time.perf_counter_ns() - before) / 1e3)
            run(profiled)
            if time.perf_counter() - started > _SECONDS:
                break
        events = json.loads(Path(profiled.end_profiling()).read_text(encoding="utf-8"))
    found = node_times([event for event in events if event.get("cat") == "Node"], view_us)
    return {**found, "whole_us": middle_mean(whole)}


def _view_us(chained: Callable[[bytes], Callable[[], Any]]) -> float:
    """Microseconds of a node that only changes a shape, without a profiler: of many, one behind the other."""
    run = chained(chain_of_views(_CHAIN))
    times = []
    for _ in range(_WARM_UP + _RUNS):
        before = time.perf_counter_ns()
        run()
        times.append((time.perf_counter_ns() - before) / 1e3)
    return middle_mean(times) / _CHAIN


def node_times(events: list[dict[str, Any]], view_us: float = 0.0) -> dict[str, Any]:
    """Nodes in the order they ran, each with its kind, what ran it and its microseconds.

    Args:
        events: of the profiler's file, those of nodes.
        view_us: what a node that only changes a shape takes without the profiler.

    Returns:
        ``operators``, rows of (name, kind, provider, microseconds); and ``cost_us``, which the profiler added
        to each and which is no longer in them: 0 where there was no way to tell.
    """
    durations: dict[str, list[float]] = {}
    kinds: dict[str, tuple[str, str]] = {}
    for event in events:
        name = event["name"].rpartition("_kernel_time")[0] or event["name"]
        # Of one name and another place in the graph, it is another node.
        name = name + "\0" + str(event["args"].get("node_index", ""))
        durations.setdefault(name, []).append(float(event["dur"]))
        kinds[name] = (event["args"].get("op_name", "?"), event["args"].get("provider", "?"))
    means = {name: middle_mean(values) for name, values in durations.items()}
    cost = _cost([value for name, value in means.items() if kinds[name][0] in _VIEWS], view_us)
    rows = [[name.partition("\0")[0], *kinds[name], max(0.0, value - cost)] for name, value in means.items()]
    return {"operators": rows, "cost_us": cost}


def _cost(views: list[float], view_us: float) -> float:
    """What the profiler adds to a node, by what it shows of those that only change a shape."""
    if len(views) < _FEWEST_VIEWS:
        return 0.0
    # The lower quartile: some of them copy after all.
    return max(0.0, sorted(views)[len(views) // 4] - view_us)


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
