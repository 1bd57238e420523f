"""Prune: from a Program and a folder of images to a smaller Program, its cost and gain measured."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from edgevit import extras
from edgevit.errors import EdgevitError, closest
from edgevit.evaluation import evaluate_runnable
from edgevit.export.formats import FORMATS
from edgevit.files import check_output, staged_folder
from edgevit.graph.axes import Role
from edgevit.graph.program import Program
from edgevit.images import ImageFolder, ImageReader, OnBadImage, open_folder
from edgevit.profiling.relative import TIMED, relative, timed_here
from edgevit.pruning.allocation import Widths
from edgevit.pruning.compensation import FEWEST_IMAGES
from edgevit.pruning.prune import DEFAULT_ROLES, Pruner, PruneResult, check_share

Of = Literal["macs", "parameters", "latency"]

# Labelled images, other than those that were pruned with, on which accuracy is compared.
_JUDGED = 500
# A share of latency is met when it is missed by no more than the noise of its measurement.
_NEAR = 0.02
_MEASUREMENTS = 6


@dataclass(frozen=True)
class MeasuredPruning:
    """What `prune_folder` made.

    Attributes:
        path: of the smaller Program.
        report: the same figures as here, as JSON.
        pruning: what went, and what it did to the predictions.
        accuracy: top-1 percent of the whole and of the smaller Program on images that pruning did not see;
            None where the folder has no more, or no labels.
        judged: how many those are.
        format: the format in whose runtime speed and size were measured; None without one here.
        latency_ratio: time of the artefact relative to the whole one's, one thread.
        size_ratio: its bytes, likewise.
    """

    path: Path
    report: Path
    pruning: PruneResult
    accuracy: tuple[float, float] | None
    judged: int
    format: str | None
    latency_ratio: float | None
    size_ratio: float | None


def prune_folder(
    program: Program | str | Path,
    *,
    data: str | Path,
    output: str | Path,
    keep: float = 0.5,
    of: Of = "macs",
    roles: Collection[Role] = DEFAULT_ROLES,
    compensation: bool = True,
    images: int = 256,
    seed: int = 0,
    to: str = "onnx",
    on_bad_image: OnBadImage = "fail",
    force: bool = False,
) -> MeasuredPruning:
    """Prune a Program with the images of a folder, and write it with a report beside it.

    Args:
        program: the float Program, or its ``.pt2``.
        data: a folder of images; where it has labels and more images than are used, accuracy is compared.
        output: the ``.pt2`` file to write.
        keep: the share of the cost that may be left, above 0 and below 1.
        of: "macs", "parameters", or "latency": of an artefact in its runtime on this machine.
        roles: of the axes that may shrink.
        compensation: whether layers are fitted to what they gave before.
        images: of the folder, drawn by chance, to prune with.
        seed: of what is drawn.
        to: the format whose runtime is timed.
        on_bad_image: "fail" or "skip".
        force: replace what is there.

    Raises:
        EdgevitError: when anything cannot be used, or the budget cannot be met.
    """
    path = Path(output)
    if path.suffix != ".pt2":
        raise EdgevitError(f"--output: {path} must end in .pt2")
    report = path.with_name(f"{path.stem}.prune.json")
    for file in (path, report):
        check_output(file, force=force)
    timed = _timed(of, to)
    check_share(keep)
    program = program if isinstance(program, Program) else Program.load(program)
    folder = open_folder(data, num_classes=program.num_classes, class_names=program.card.labels)
    if images < FEWEST_IMAGES:
        raise EdgevitError(f"--images: {images} are too few to prune with; {FEWEST_IMAGES} at least")
    drawn = folder.sample(min(images, len(folder)), seed)
    read = ImageReader(drawn, program.card.preprocessing, on_bad_image=on_bad_image).read_all()
    pruner = Pruner(program, read, roles=roles, seed=seed)
    widths = _for_latency(pruner, program, keep, to) if of == "latency" else pruner.widths(keep, of)
    pruning = pruner.cut(widths, compensation=compensation)
    others = _others(folder, drawn, seed)
    measured = None if timed is None else relative(program, pruning.program, timed)
    result = MeasuredPruning(
        path=path,
        report=report,
        pruning=pruning,
        accuracy=None if others is None else _accuracies((program, pruning.program), others, on_bad_image),
        judged=0 if others is None else len(others),
        format=timed,
        latency_ratio=None if measured is None else measured.latency,
        size_ratio=None if measured is None else measured.size,
    )
    with staged_folder(path.parent) as stage:
        pruning.program.save(stage / path.name)
        (stage / report.name).write_text(json.dumps(summary(result), indent=1) + "\n", encoding="utf-8")
    return result


def summary(result: MeasuredPruning) -> dict[str, Any]:
    """Everything that was measured, as plain values."""
    pruning = result.pruning
    return {
        "version": 1,
        "edgevit": extras.version_of("edgevit") or "",
        "model": pruning.program.card.name,
        "program": result.path.name,
        "axes": [dataclasses.asdict(axis) for axis in pruning.axes],
        "layers": [dataclasses.asdict(layer) for layer in pruning.layers],
        "macs": pruning.macs,
        "parameters": pruning.parameters,
        "divergence": pruning.divergence,
        "images": pruning.images,
        "seconds": pruning.seconds,
        "accuracy": result.accuracy,
        "judged": result.judged,
        "format": result.format,
        "latency_ratio": result.latency_ratio,
        "size_ratio": result.size_ratio,
    }


def _timed(of: str, to: str) -> str | None:
    """The format to time, where its runtime is here."""
    if of not in get_args(Of):
        raise EdgevitError(f"--of: {of!r} is unknown; {closest(of, get_args(Of))}")
    if to not in FORMATS:
        raise EdgevitError(f"--to: {to!r} is no format; {closest(to, FORMATS)}")
    if of == "latency" and to not in TIMED:
        raise EdgevitError(f"--of latency --to {to}: what can be timed here are {' and '.join(TIMED)}")
    if of == "latency":
        extras.require(FORMATS[to].extra, "measuring latency")
    return timed_here(to)


def _for_latency(pruner: Pruner, program: Program, keep: float, to: str) -> Widths:
    """The widths of the largest share of multiply-accumulates with which a share of the latency is held.

    Latency falls with arithmetic, but by less: each share is measured, and the next one lies between the two
    that enclose what is wanted, where a straight line between them says.
    """
    least = pruner.least("macs")
    low: tuple[float, float | None] = (least, None)
    high = (1.0, 1.0)
    best: Widths | None = None
    share = max(keep, least)
    for _ in range(_MEASUREMENTS):
        widths = pruner.widths(share)
        ratio = relative(program, pruner.sliced(widths), to).latency
        if ratio > keep:
            high = (share, ratio)
        else:
            low, best = (share, ratio), widths
        if keep - _NEAR <= ratio <= keep or share == least:
            break
        share = _between(low, high, keep)
    if best is None:
        raise EdgevitError(
            f"--keep {keep:g} of latency: with {high[0]:.2g} of its multiply-accumulates left the model "
            f"takes {high[1]:.2f} of its time in {to} on this machine; allow it, or let more --role shrink"
        )
    return best


def _between(low: tuple[float, float | None], high: tuple[float, float], wanted: float) -> float:
    """The share at which a line through two measurements has the wanted ratio, well between them."""
    if low[1] is None:
        return max(low[0], high[0] / 2)
    slope = (high[0] - low[0]) / max(high[1] - low[1], 1e-6)
    share = low[0] + (wanted - _NEAR / 2 - low[1]) * slope
    margin = 0.1 * (high[0] - low[0])
    return min(max(share, low[0] + margin), high[0] - margin)


def _others(folder: ImageFolder, drawn: ImageFolder, seed: int) -> ImageFolder | None:
    """Labelled images that were not drawn; None where there are none."""
    left = folder.without(drawn)
    return left.sample(_JUDGED, seed) if len(left) and left.labels is not None else None


def _accuracies(
    programs: tuple[Program, Program], folder: ImageFolder, on_bad_image: OnBadImage
) -> tuple[float, float]:
    first, second = (evaluate_runnable(one, folder, on_bad_image=on_bad_image).top1 for one in programs)
    return first, second
