"""Pictures of a plan as SVG markup: when devices are busy, and what goes from one to another."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from edgevit.planning.plan_file import PlanFile, TaskEntry
from edgevit.planning.servers import Span
from edgevit.report.charts import Scale, chart, element, nice_ticks, short
from edgevit.report.figures import counted, duration, transfer

# A device's row of a timeline: its name, what it computes, what passes its line.
_ROW, _COMPUTE, _LINE = 50, (20, 12), (34, 4)
_AXIS = 22

# A device of a graph, and the space to the next.
_NODE, _STEP = 15, 64

#: Items that are told apart by their shade.
SHADES = 4


def gantt(devices: Sequence[str], spans: Sequence[Span]) -> Markup:
    """Devices one under another, and when each computes, receives and sends: an item in a shade of its own.

    Args:
        devices: whose rows are drawn, from the top.
        spans: when they are busy; of others nothing is drawn.
    """
    shown = [
        span for span in spans if span.name in devices and span.what != "shared" and span.end > span.start
    ]
    end = max((span.end for span in shown), default=0.0)
    scale = Scale(0.0, end)
    base = _ROW * len(devices)
    names = [element("text", short(name), x="0%", y=_ROW * row + 13) for row, name in enumerate(devices)]
    bars = [_bar(span, _ROW * devices.index(span.name), scale) for span in shown]
    busy = ", ".join(f"{name} {duration(_computing(shown, name))}" for name in devices)
    label = f"Timeline of {duration(end)}; computing: {busy}"
    ticks = [
        element("text", duration(tick), class_="soft", x=scale.at(tick), y=base + 17, text_anchor="middle")
        # What stands at an edge would stick out.
        for tick in nice_ticks(scale.low, scale.high, 4)
        if 5 < scale.share(tick) < 95
    ]
    axis = element("line", class_="axis", x1="0%", x2="100%", y1=base, y2=base)
    return chart(base + _AXIS, label, *names, *bars, axis, *ticks)


def _computing(spans: Sequence[Span], name: str) -> float:
    return sum(span.end - span.start for span in spans if (span.what, span.name) == ("device", name))


def _bar(span: Span, top: int, scale: Scale) -> Markup:
    computes = span.what == "device"
    y, height = _COMPUTE if computes else _LINE
    # What comes in and what goes out pass different lines: one above the other.
    y += 5 if span.what == "out" else 0
    verb = {"device": "computes", "in": "receives", "out": "sends"}[span.what]
    took = duration(span.end - span.start)
    return element(
        "rect",
        element("title", f"{span.name} {verb} item {span.item + 1}: {took}"),
        class_=f"{'bar' if computes else 'wire'} shade-{span.item % SHADES}",
        x=scale.at(span.start),
        width=f"{scale.share(span.end) - scale.share(span.start):.3f}%",
        y=top + y,
        height=height,
        rx=1,
    )


def cluster_graph(plan: PlanFile, tasks: Sequence[TaskEntry]) -> Markup:
    """Devices that work, what each gives to the next, where images come from and answers go.

    Args:
        plan: whose best plan is drawn.
        tasks: of it, those that are drawn.
    """
    middles = {task.device: _STEP * row + _NODE + 10 for row, task in enumerate(tasks)}
    height = _STEP * len(tasks) + 10
    ends = [(plan.input, "14%"), (plan.answer, "86%")]
    outside = {role: at for role, at in ends if role is not None}
    arrows = _in_a_row(tasks, middles) if plan.plan.mode == "pipeline" else []
    arrows += _from_and_to(plan, tasks, middles, height)
    nodes = [_node(task, middles[task.device]) for task in tasks]
    roles = [_role(name, at, height / 2) for name, at in outside.items()]
    label = f"{plan.plan.mode} on {counted(len(tasks), 'device')}: {', '.join(middles)}"
    return chart(height, label, *arrows, *nodes, *roles)


def _node(task: TaskEntry, y: float) -> Markup:
    return element(
        "g",
        element("title", f"{task.device}: {duration(task.seconds)}"),
        element("circle", class_="dot", cx="50%", cy=y, r=_NODE / 2),
        element("text", short(task.device), class_="strong", x="50%", dx=16, y=y + 1),
        element(
            "text",
            f"{_runs(task)}, {duration(task.seconds)}",
            class_="soft",
            x="50%",
            dx=16,
            y=y + 17,
        ),
    )


def _runs(task: TaskEntry) -> str:
    if task.parts is not None:
        return counted(len(task.parts), "part")
    share = "" if task.share == 1 else f" of {100 * task.share:.3g} % of the items"
    return f"segments {task.first} to {task.last}{share}"


def _role(name: str, at: str, y: float) -> Markup:
    return element(
        "g",
        element("circle", class_="reference", cx=at, cy=y, r=_NODE / 2),
        element("text", short(name), x=at, y=y - 14, text_anchor="middle"),
    )


def _in_a_row(tasks: Sequence[TaskEntry], middles: Mapping[str, int]) -> list[Markup]:
    """From each stage of a pipeline to the next, with what is sent."""
    arrows = []
    for task, following in itertools.pairwise(tasks):
        top, bottom = middles[task.device], middles[following.device]
        words = f"{transfer(task.sent.bytes)} {task.sent.precision}"
        arrows += [
            element("line", class_="rule", x1="50%", x2="50%", y1=top, y2=bottom),
            element(
                "text", words, class_="soft", x="50%", dx=-14, y=(top + bottom) / 2 + 4, text_anchor="end"
            ),
        ]
    return arrows


def _from_and_to(
    plan: PlanFile, tasks: Sequence[TaskEntry], middles: Mapping[str, int], height: float
) -> list[Markup]:
    """From the device that has the images, and to the one that wants the answers."""
    in_a_row = plan.plan.mode == "pipeline"
    first, last = (tasks[:1], tasks[-1:]) if in_a_row else (tasks, tasks)
    lines: list[tuple[str, str, float, float]] = []
    if plan.input is not None:
        lines += [("14%", "50%", height / 2, middles[task.device]) for task in first]
    if plan.answer is not None:
        lines += [("50%", "86%", middles[task.device], height / 2) for task in last]
    return [element("line", class_="rule", x1=x1, x2=x2, y1=y1, y2=y2) for x1, x2, y1, y2 in lines]
