"""Times of single operators, by the profilers that runtimes have."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any, Callable  # noqa: UP035 - devices in the field run older Pythons

# The first runs of a session allocate and pack; so many runs, or so many seconds, of those after them.
_WARM_UP, _RUNS, _SECONDS = 5, 30, 3.0

# They give their input another shape, and move nothing: all that their times show is the profiler's cost.
_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten"})
_FEWEST_VIEWS = 3


def onnx_operators(session: Callable[..., Any], run: Callable[[Any], Any]) -> dict[str, Any]:
    """Microseconds of each node, by ONNX Runtime's own profiler, in a session of its own.

    The profiler spells out the shapes of each node before it stops that node's clock: some microseconds,
    more than a small node takes. They are measured on the nodes that only change a shape.
    """
    with tempfile.TemporaryDirectory() as folder:
        profiled = session(enable_profiling=True, profile_file_prefix=str(Path(folder) / "nodes"))
        started = time.perf_counter()
        for _ in range(_WARM_UP + _RUNS):
            run(profiled)
            if time.perf_counter() - started > _SECONDS:
                break
        events = json.loads(Path(profiled.end_profiling()).read_text(encoding="utf-8"))
    return node_times([event for event in events if event.get("cat") == "Node"])


def node_times(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Nodes in the order they ran, each with its kind, what ran it and its microseconds.

    Args:
        events: of the profiler's file, those of nodes.

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
    views = [value for name, value in means.items() if kinds[name][0] in _VIEWS]
    # Some of them copy after all; the quickest does not.
    cost = min(views) if len(views) >= _FEWEST_VIEWS else 0.0
    rows = [[name.partition("\0")[0], *kinds[name], max(0.0, value - cost)] for name, value in means.items()]
    return {"operators": rows, "cost_us": cost}


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
    return {"operators": rows, "cost_us": 0.0}
