"""The report of a deployment as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup

from edgevit.export.placement import Placement
from edgevit.export.verify import OutputParity
from edgevit.report import charts, figures
from edgevit.report.document import ArtefactSection, Report
from edgevit.report.pages import rendered

_TEMPLATE = "report.html.j2"

# Below six classes the right one is always among the best five.
_LEAST_CLASSES_FOR_TOP5 = 6

# Files skipped by the thousand are one problem, not a thousand lines.
_SKIPPED_SHOWN = 8

# Kinds of operators that a backend does not take, beyond which report.json is the place to look.
_FALLBACKS_SHOWN = 6

State = Literal["verified", "failed", "unverified"]

STATE_WORDS: dict[State, str] = {"verified": "Verified", "failed": "FAILED", "unverified": "Not verified"}


# How a table of what a backend takes came to be.
BASIS_WORDS = {
    "datasheet": "published by the runtime's makers",
    "measurement": "measured by running single operators",
    "estimate": "an estimate: no list is published",
}


@dataclass(frozen=True)
class Verdict:
    """Whether the artefacts compute what the model does, in words."""

    state: State
    sentence: str

    @property
    def word(self) -> str:
        """The verdict in a word."""
        return STATE_WORDS[self.state]


def render(report: Report, thumbnails: Mapping[str, str]) -> str:
    """The page of a deployment.

    Args:
        report: what was measured.
        thumbnails: data URIs of small copies of the images that were got wrong, by
            `MistakeSection.file`; the mistakes without one are counted, not shown.
    """
    return rendered(
        _TEMPLATE,
        report=report,
        verdict=verdict(report.artefacts),
        thumbnails=thumbnails,
        shown=[mistake for mistake in report.mistakes if mistake.file in thumbnails],
        skipped_shown=report.data.skipped[:_SKIPPED_SHOWN],
        top5=report.model.classes >= _LEAST_CLASSES_FOR_TOP5,
        elsewhere=measured_elsewhere(report),
        size_chart=size_chart(report),
        accuracy_chart=accuracy_chart(report),
        state=state,
        state_words=STATE_WORDS,
        worst=worst,
        parity_words=parity_words,
        place=place,
        histogram=histogram_chart,
        warm_up=warm_up_chart,
        taken_chart=taken_chart,
        basis_words=BASIS_WORDS,
        fallbacks_shown=_FALLBACKS_SHOWN,
    )


# --- verdict ------------------------------------------------------------------------------------------


def state(artefact: ArtefactSection) -> State:
    """Whether the artefact was compared with the model, and what came of it."""
    if not artefact.outputs:
        return "unverified"
    return "verified" if artefact.passed else "failed"


def verdict(artefacts: Sequence[ArtefactSection]) -> Verdict:
    """The worst that can be said of any artefact; the sentence says it of each."""
    by_state: dict[State, list[str]] = {"failed": [], "unverified": [], "verified": []}
    for artefact in artefacts:
        by_state[state(artefact)].append(artefact.file)
    found = {which: names for which, names in by_state.items() if names}
    return Verdict(next(iter(found)), " ".join(_said_of(names, which) for which, names in found.items()))


def _said_of(names: Sequence[str], which: State) -> str:
    one = len(names) == 1
    listed = names[0] if one else f"{', '.join(names[:-1])} and {names[-1]}"
    match which:
        case "failed":
            do = "does" if one else "do"
            return f"{listed} {do} not compute what the model computes: outside tolerance."
        case "unverified":
            return f"{listed} {'was' if one else 'were'} not compared with the model."
        case "verified":
            return f"{listed} {'computes' if one else 'compute'} what the model computes, within tolerance."


def worst(outputs: Sequence[OutputParity]) -> OutputParity:
    """The output furthest from its tolerance; one with values that are not finite before all others."""
    return max(outputs, key=lambda output: math.inf if output.rel is None else output.rel / output.tolerance)


def parity_words(output: OutputParity) -> str:
    """What one comparison means, in a sentence."""
    if output.rel is None:
        return "The artefact is broken for these inputs; nothing it answers can be used."
    if output.max_abs == 0:
        return "Every value is the model's, to the bit."
    if output.passed:
        return "Within tolerance: rounding explains the difference."
    return (
        f"{figures.digits(output.rel / output.tolerance)} times the tolerance: more than rounding explains, "
        "the artefact computes something else."
    )


# --- words --------------------------------------------------------------------------------------------


def place(latency: Mapping[str, Any]) -> str:
    """What a latency was measured on."""
    where = "this machine" if latency["device"] == "local" else latency["device"]
    return f"{where} ({latency['machine']}, {figures.counted(latency['cores'], 'core')})"


def measured_elsewhere(report: Report) -> str | None:
    """What must be said of the latencies when they are not the target's; None when they are."""
    if report.target is None or all(item.latency["device"] != "local" for item in report.artefacts):
        return None
    machine = place(report.artefacts[0].latency)
    return (
        f"Meant for {report.target}. Latency and memory were measured on {machine}, the one that made these "
        f"files, and not on {report.target}: there they will differ."
    )


# --- charts -------------------------------------------------------------------------------------------


def histogram_chart(latency: Mapping[str, Any]) -> Markup:
    """The timed runs, with the percentiles that are quoted most."""
    return charts.latency_histogram(
        latency["samples_ms"], [(name, latency[f"{name}_ms"]) for name in ("p50", "p90", "p99")]
    )


def warm_up_chart(latency: Mapping[str, Any]) -> Markup:
    """The runs before the timed ones."""
    return charts.warm_up_strip(latency["first_ms"], latency["warm_up_ms"], latency["p50_ms"])


def size_chart(report: Report) -> Markup:
    """The model's file and every artefact."""
    files = [(report.model.file, report.model.bytes), *((item.file, item.bytes) for item in report.artefacts)]
    return charts.size_bars([(name, size, figures.megabytes(size)) for name, size in files])


def accuracy_chart(report: Report) -> Markup:
    """Top-1 of the model and of every artefact."""
    model = (f"model in {report.model.runtime}", report.model.top1)
    return charts.accuracy_dots([model, *((item.file, item.top1) for item in report.artefacts)])


def taken_chart(placement: Placement) -> Markup:
    """What every backend takes of a file's operators."""
    return charts.taken_bars(
        [(f"{item.via} ({item.unit})", item.taken, item.total) for item in placement.backends]
    )
