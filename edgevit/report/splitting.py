"""The report of a classifier split by its classes as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup

from edgevit.report import charts, figures
from edgevit.report.pages import rendered

_TEMPLATE = "splitting.html.j2"

# More names than these push the figures of a part out of sight; all of them are one click away.
_CLASSES_SHOWN = 4

# Of a fusion's parameters, which are float32.
_FLOAT_BYTES = 4

State = Literal["better", "close", "no-better"]

STATE_WORDS: dict[State, str] = {
    "better": "Better than the control",
    "close": "Too close to tell",
    "no-better": "No better than the control",
}


@dataclass(frozen=True)
class Verdict:
    """Whether the split is worth more than one device with the control.

    Attributes:
        state: which of the three it is.
        sentence: the same with its figures.
        doubt: what must be said when the images held out are too few for the difference; None when they
            are not.
    """

    state: State
    sentence: str
    doubt: str | None

    @property
    def word(self) -> str:
        """The verdict in a few words."""
        return STATE_WORDS[self.state]


@dataclass(frozen=True)
class Row:
    """A part, or what parts are compared with.

    Attributes:
        name: what it is called.
        classes: names of those that it answers for; None for all.
        accuracy: top-1 percent on its classes.
        without: top-1 percent of the fusion when it is missing; None where nothing can be missing.
        bytes: of its weights.
        macs: multiply-accumulates for one image.
        sent: bytes for one image; None where nothing is sent.
        latency: relative to the whole's; None where it was not measured.
    """

    name: str
    classes: tuple[str, ...] | None
    accuracy: float
    without: float | None
    bytes: int
    macs: int
    sent: int | None
    latency: float | None


def render(summary: Mapping[str, Any]) -> str:
    """The page of a split.

    Args:
        summary: ``manifest``, the `edgevit.pruning.split.Manifest` as JSON; ``latency``, the time of each
            part and of the control relative to the whole's; ``whole_ms``, what that is, and ``format``, of
            the files that were timed, all three None where none could be; ``edgevit``, its version, and
            ``machine``, where that was.
    """
    manifest, latency = summary["manifest"], summary["latency"]
    parts = part_rows(manifest, latency)
    together = together_row(manifest)
    return rendered(
        _TEMPLATE,
        summary=summary,
        manifest=manifest,
        whole=manifest["whole"],
        verdict=verdict(manifest),
        error=standard_error_of(manifest),
        rows=[*parts, together, *reference_rows(manifest, latency)],
        together=together,
        largest=max(parts, key=lambda row: row.bytes),
        costliest=max(parts, key=lambda row: row.macs),
        most_sent=max(part["bytes_sent"] for part in manifest["parts"]),
        fusion_bytes=_fusion_bytes(manifest),
        slowest=None if latency is None else max(parts, key=lambda row: latency[row.name]),
        worst=worst_loss(parts),
        accuracy_chart=accuracy_chart(manifest),
        classes_shown=_CLASSES_SHOWN,
        slowest_device=None if manifest["placement"] is None else slowest_device(manifest["placement"]),
    )


# --- verdict ------------------------------------------------------------------------------------------


def standard_error(first: float, second: float, images: int) -> float:
    """How far apart two accuracies come by chance alone, one standard error in percentage points.

    That of two models which are equally good and are each given images of their own. Both were given the
    same images, on which models tend to err together: what chance does is less, and this is on the safe side.

    Args:
        first: accuracy in percent.
        second: that of the other.
        images: how many either was measured on.

    >>> round(standard_error(81.0, 79.0, 800), 2)
    2.0
    """
    share = (first + second) / 200
    return 100 * math.sqrt(2 * share * (1 - share) / images)


def standard_error_of(manifest: Mapping[str, Any]) -> float:
    """The same, of what the split and the control reach."""
    accuracies = manifest["fusion"]["accuracy"], manifest["control"]["accuracy"]
    return standard_error(*accuracies, manifest["options"]["held_out"])


def verdict(manifest: Mapping[str, Any]) -> Verdict:
    """The split against the control; where both are equal, one device is enough."""
    fused, control = manifest["fusion"]["accuracy"], manifest["control"]["accuracy"]
    chance = abs(fused - control) < standard_error_of(manifest)
    doubt = _doubt(manifest) if chance else None
    if control > fused or _alike(fused, control):
        return Verdict("no-better", _control_wins(fused, control), doubt)
    return Verdict("close" if chance else "better", _split_wins(fused, control), doubt)


def _control_wins(fused: float, control: float) -> str:
    how = "as well" if _alike(fused, control) else f"better by {_apart(control, fused)}"
    return (
        f"One device with the control, a single model for all classes in eight bits, does {how}: "
        f"{figures.percent(control)} against {figures.percent(fused)} fused. "
        "The split does not pay at this cost."
    )


def _split_wins(fused: float, control: float) -> str:
    return (
        f"The split is better by {_apart(fused, control)} than one device with the control, a single model "
        f"for all classes in eight bits: {figures.percent(fused)} fused against {figures.percent(control)}."
    )


def _alike(first: float, second: float) -> bool:
    return abs(first - second) < figures.SAME_POINTS


def _apart(higher: float, lower: float) -> str:
    return figures.points(higher, lower).removeprefix("+")


def _doubt(manifest: Mapping[str, Any]) -> str:
    images = figures.counted(manifest["options"]["held_out"], "image")
    error = f"{standard_error_of(manifest):.2f}{figures.NBSP}points"
    return (
        f"{images} held out cannot tell apart what differs by less than {error}, one standard error: "
        "which of the two is better may be chance."
    )


# --- table --------------------------------------------------------------------------------------------


def part_rows(manifest: Mapping[str, Any], latency: Mapping[str, float] | None) -> list[Row]:
    """Every part."""
    return [
        Row(
            name=part["name"],
            classes=class_names(part["classes"], manifest["labels"]),
            accuracy=part["accuracy"],
            without=part["accuracy_without"],
            bytes=part["bytes"],
            macs=part["macs"],
            sent=part["bytes_sent"],
            latency=None if latency is None else latency[part["name"]],
        )
        for part in manifest["parts"]
    ]


def together_row(manifest: Mapping[str, Any]) -> Row:
    """All parts and the fusion; its arithmetic is not in the manifest, and little."""
    parts = manifest["parts"]
    return Row(
        name=_together(manifest),
        classes=None,
        accuracy=manifest["fusion"]["accuracy"],
        without=None,
        bytes=sum(part["bytes"] for part in parts) + _fusion_bytes(manifest),
        macs=sum(part["macs"] for part in parts),
        sent=sum(part["bytes_sent"] for part in parts),
        # Devices work side by side: it is none of the parts' sum.
        latency=None,
    )


def reference_rows(manifest: Mapping[str, Any], latency: Mapping[str, float] | None) -> list[Row]:
    """What one device could run instead, and the classifier that was split."""
    latencies = {"control": None, "whole": None} if latency is None else {**latency, "whole": 1.0}
    return [
        Row(
            name=name,
            classes=None,
            accuracy=manifest[name]["accuracy"],
            without=None,
            bytes=manifest[name]["bytes"],
            macs=manifest[name]["macs"],
            sent=None,
            latency=latencies[name],
        )
        for name in ("control", "whole")
    ]


def class_names(classes: Sequence[int], labels: Sequence[str] | None) -> tuple[str, ...]:
    """Names of classes, their numbers where they have none.

    >>> class_names([0, 2], ["cat", "dog", "owl"]), class_names([0, 2], None)
    (('cat', 'owl'), ('0', '2'))
    """
    return tuple(str(index) if labels is None else labels[index] for index in classes)


def worst_loss(parts: Sequence[Row]) -> Row | None:
    """The part without which least is left; None where there is only one."""
    losses = [(row.without, row) for row in parts if row.without is not None]
    return min(losses, key=lambda loss: loss[0])[1] if losses else None


def slowest_device(placement: Mapping[str, Any]) -> str:
    """The device that decides how long an image takes."""
    seconds: Mapping[str, float] = placement["seconds"]
    return max(seconds, key=lambda device: seconds[device])


def _together(manifest: Mapping[str, Any]) -> str:
    return "part and fusion" if len(manifest["parts"]) == 1 else "parts and fusion"


def _fusion_bytes(manifest: Mapping[str, Any]) -> int:
    parameters: int = manifest["fusion"]["parameters"]
    return _FLOAT_BYTES * parameters


# --- charts -------------------------------------------------------------------------------------------


def accuracy_chart(manifest: Mapping[str, Any]) -> Markup:
    """The whole, all parts fused, the control, and the fusion with each part missing."""
    rows = [
        ("whole", manifest["whole"]["accuracy"]),
        (_together(manifest), manifest["fusion"]["accuracy"]),
        ("control", manifest["control"]["accuracy"]),
    ]
    rows += [
        (f"without {part['name']}", part["accuracy_without"])
        for part in manifest["parts"]
        if part["accuracy_without"] is not None
    ]
    return charts.accuracy_dots(rows)
