"""Compress: from a Program and calibration images to a smaller, faster Program, its recipe and its report."""

from __future__ import annotations

import dataclasses
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from edgevit import extras
from edgevit.errors import CheckFailedError, EdgevitError, closest
from edgevit.export.formats import FORMATS
from edgevit.files import check_output, staged_folder
from edgevit.graph.devices import check_device
from edgevit.graph.program import Array, Program
from edgevit.graph.rewrites import prepare_for_export
from edgevit.graph.weights import digest
from edgevit.images import ImageReader, OnBadImage, open_folder
from edgevit.profiling.quantized import MeasuredPlacement, layer_gains, measure_placement
from edgevit.profiling.relative import TIMED, machine, relative, timed_here
from edgevit.profiling.unfinished import Unfinished
from edgevit.quant.calibration import Calibration, check_weights
from edgevit.quant.levels import Level, Levels
from edgevit.quant.options import Engine, Fallback, Method, QuantizeOptions, check_options
from edgevit.quant.placing import PLACEMENTS, check_levels, excluded
from edgevit.quant.precision import bit_widths
from edgevit.quant.quantizing import QuantizeResult, quantize
from edgevit.quant.ranges import Granularity, SchemeChoice
from edgevit.recipe import QuantizeRecipe, Recipe
from edgevit.report.compression import render

MEASURED = "measured"
# A ratio up to this is within the noise of the measurement.
SLOWER = 1.03


@dataclass(frozen=True)
class CompressResult:
    """What `compress` made.

    Attributes:
        path: of the compressed Program.
        recipe: the file that makes it again.
        report: the same figures as here, as JSON.
        page: the same for people, as one HTML page.
        quantization: what was quantized, and what it did to the predictions.
        labelled: whether the images have classes, so that `quantization.drop` is of accuracy.
        placement: what was measured to decide where integers pay; None where the user decided.
        format: the format in whose runtime speed and size were measured; None without one here.
        latency_ratio: time of the artefact relative to the float one's, one thread.
        size_ratio: its bytes, likewise.
    """

    path: Path
    recipe: Path
    report: Path
    page: Path
    quantization: QuantizeResult
    labelled: bool
    placement: MeasuredPlacement | None
    format: str | None
    latency_ratio: float | None
    size_ratio: float | None


def compress(
    program: Program | str | Path,
    *,
    calib: str | Path,
    output: str | Path,
    recipe: QuantizeRecipe,
    torch_device: str = "cpu",
    on_bad_image: OnBadImage = "fail",
    force: bool = False,
) -> CompressResult:
    """Quantize a Program as a recipe says, and write it with recipe and report beside it.

    Args:
        program: the float Program, or its ``.pt2``.
        calib: a folder of images; with labels, `recipe.max_drop` is measured in accuracy.
        output: the ``.pt2`` file to write.
        recipe: what to do.
        torch_device: where calibration runs, "cpu" or "cuda".
        on_bad_image: "fail" or "skip".
        force: replace what is there, and write an artefact that is slower than float.

    Raises:
        EdgevitError: when anything cannot be used.
        CheckFailedError: when the result would be slower than the float model, without `force`.
    """
    path = Path(output)
    if path.suffix != ".pt2":
        raise EdgevitError(f"--output: {path} must end in .pt2")
    beside = ("recipe.yaml", "compress.json", "compress.html")
    names = [path.name, *(f"{path.stem}.{kind}" for kind in beside)]
    for name in names:
        check_output(path.with_name(name), force=force)
    _check(recipe)
    program = program if isinstance(program, Program) else Program.load(program)
    # What can be refused is, before minutes are spent on measuring.
    check_options(program, _options(recipe, chosen=False))
    check_device(torch_device)
    levels = _named_levels(program, recipe)
    images, labels = _images(program, calib, recipe, on_bad_image)
    unfinished = Unfinished.beside(path)
    with unfinished.kept_when_interrupted():
        placement = _measured(program, recipe, unfinished, force=force)
        levels = levels if placement is None else placement.levels
        gains = recipe.gains
        if placement is not None:
            gains = layer_gains(program, placement, exclude=recipe.exclude)
        result = quantize(
            program,
            images,
            labels=labels,
            levels=levels,
            gains=gains,
            torch_device=torch_device,
            # NNCF keeps nothing to go on from.
            checkpoint=unfinished.learned if recipe.engine == "edgevit" else None,
            **vars(_options(recipe, chosen=levels is not None)),
        )
    format_ = timed_here(recipe.to)
    measured = None if format_ is None else relative(program, result.program, format_)
    _check_speed(recipe, None if measured is None else measured.latency, force=force)
    found = CompressResult(
        path=path,
        recipe=path.with_name(names[1]),
        report=path.with_name(names[2]),
        page=path.with_name(names[3]),
        quantization=result,
        labelled=labels is not None,
        placement=placement,
        format=format_,
        latency_ratio=None if measured is None else measured.latency,
        size_ratio=None if measured is None else measured.size,
    )
    if placement is not None:
        layers = {name: level.name.lower() for name, level in placement.levels.items()}
        recipe = recipe.model_copy(update={"layers": layers, "gains": gains, "placement": None})
    report = summary(found)
    with staged_folder(path.parent) as stage:
        result.program.save(stage / path.name)
        Recipe(quantize=recipe).write(stage / names[1])
        (stage / names[2]).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (stage / names[3]).write_text(render(report), encoding="utf-8")
    return found


def summary(result: CompressResult) -> dict[str, Any]:
    """Everything that was measured, as plain values."""
    quantization, placement = result.quantization, result.placement
    options = quantization.options
    return {
        "version": 1,
        "edgevit": extras.version_of("edgevit") or "",
        "machine": machine(),
        "model": quantization.program.card.name,
        "precision": options.precision,
        "engine": options.engine,
        # NNCF has its own.
        "method": options.method if options.engine == "edgevit" else None,
        "program": result.path.name,
        "recipe": result.recipe.name,
        "images": quantization.images,
        "labelled": result.labelled,
        "drop": quantization.drop,
        "format": result.format,
        "latency_ratio": result.latency_ratio,
        "size_ratio": result.size_ratio,
        "seconds": quantization.seconds,
        "peak_memory_mib": quantization.peak_memory_mib,
        "widened": list(quantization.widened),
        "kept_float": dict(quantization.kept_float),
        "smoothed": list(quantization.smoothed),
        "equalized": list(quantization.equalized),
        "decomposed": {layer: list(found) for layer, found in quantization.decomposed.items()},
        "remarks": list(quantization.remarks),
        "sensitivity": [dataclasses.asdict(item) for item in quantization.sensitivity],
        "blocks": [dataclasses.asdict(item) for item in quantization.blocks],
        "placement": None
        if placement is None
        else {
            "format": placement.format,
            "float_ms": placement.float_ms,
            "ratio": placement.ratio,
            "candidates": [dataclasses.asdict(item) for item in placement.candidates],
        },
    }


def _check(recipe: QuantizeRecipe) -> None:
    bits = bit_widths(recipe.precision)
    if recipe.to not in FORMATS:
        raise EdgevitError(f"--to: {recipe.to!r} is no format; {closest(recipe.to, FORMATS)}")
    known = (*PLACEMENTS, MEASURED)
    if recipe.placement is not None and recipe.placement not in known:
        raise EdgevitError(
            f"--placement: {recipe.placement!r} is unknown; {closest(recipe.placement, known)}"
        )
    if recipe.placement == MEASURED and (bits.activations is None or recipe.to not in TIMED):
        raise EdgevitError(
            f"--placement measured with --quantize {recipe.precision} --to {recipe.to}: what can be measured "
            f"here are quantized activations in {' or '.join(TIMED)}"
        )
    if recipe.placement == "dynamic" and recipe.to != "tflite":
        raise EdgevitError(
            f"--placement dynamic --to {recipe.to}: LiteRT alone has kernels that quantize tokens as they "
            "come; take --to tflite, or --placement inputs"
        )
    if recipe.fallback == "int16" and recipe.to == "coreml":
        raise EdgevitError("--fallback int16 --to coreml: Core ML has no 16-bit activations; leave it out")
    if recipe.placement is not None and recipe.layers is not None:
        raise EdgevitError("a recipe has either `placement` or `layers`; leave one out")
    if recipe.gains is not None and recipe.layers is None:
        raise EdgevitError("a recipe has `gains` beside `layers` only; leave it out")
    if recipe.engine == "nncf" and (recipe.placement is not None or recipe.layers is not None):
        raise EdgevitError("--engine nncf chooses what is quantized; leave out `placement` and `layers`")


def _options(recipe: QuantizeRecipe, *, chosen: bool) -> QuantizeOptions:
    """What `quantize` is told; where levels are chosen already, they leave out what is excluded."""
    return QuantizeOptions(
        precision=recipe.precision,
        method=cast(Method, recipe.method),
        granularity=cast(Granularity, recipe.granularity),
        scheme=cast(SchemeChoice, recipe.scheme),
        placement=None if recipe.placement == MEASURED else recipe.placement,
        exclude=() if chosen else recipe.exclude,
        max_drop=recipe.max_drop,
        iterations=recipe.iterations,
        seed=recipe.seed,
        engine=cast(Engine, recipe.engine),
        fallback=_fallback(recipe),
        spare=recipe.spare,
    )


def _fallback(recipe: QuantizeRecipe) -> Fallback | None:
    """What layers fall back to; for Core ML, which has no int16, never what `full` would take."""
    left_open = recipe.max_drop is not None and recipe.fallback is None
    if left_open and recipe.placement == "full" and recipe.to == "coreml":
        return "float"
    return cast(Fallback | None, recipe.fallback)


def _images(
    program: Program, calib: str | Path, recipe: QuantizeRecipe, on_bad_image: OnBadImage
) -> tuple[Array, tuple[int, ...] | None]:
    """Calibration images, drawn from the whole folder, with their classes where it has any."""
    folder = open_folder(calib, num_classes=program.num_classes, class_names=program.card.labels)
    folder = folder.sample(min(recipe.images, len(folder)), recipe.seed)
    batches = list(ImageReader(folder, program.card.preprocessing, on_bad_image=on_bad_image))
    if not batches:
        raise EdgevitError(f"--calib: none of the {len(folder)} images in {folder.root} could be used")
    labels = None if folder.labels is None else tuple(x for batch in batches for x in batch.labels or ())
    images = np.concatenate([batch.images for batch in batches])
    with warnings.catch_warnings():
        # `quantize` checks them again, and warns.
        warnings.simplefilter("ignore")
        Calibration.of(program, images, labels)
    check_weights(program)
    return images, labels


def _measured(
    program: Program, recipe: QuantizeRecipe, unfinished: Unfinished, *, force: bool
) -> MeasuredPlacement | None:
    """The placement that was measured to be fastest, where the recipe leaves that open."""
    bits = bit_widths(recipe.precision)
    by_default = (
        recipe.placement is None
        and recipe.engine == "edgevit"
        and bits.activations == 8
        and timed_here(recipe.to) is not None
    )
    if recipe.layers is not None or not (by_default or recipe.placement == MEASURED):
        return None
    run = f"{digest(program.exported.state_dict.items())} {bits} {recipe.to} {recipe.exclude}"
    found = unfinished.placement(run) or measure_placement(
        program, to=recipe.to, bits=bits, exclude=recipe.exclude
    )
    if not found.pays and not force:
        best = min(candidate.ratio for candidate in found.candidates)
        raise CheckFailedError(
            f"--quantize {recipe.precision}: no placement of integers is faster than float in {recipe.to} on "
            f"this machine (the best region alone: {best:.2f}x); --quantize w8 makes the file smaller"
        )
    unfinished.keep(run, found)
    return found


def _named_levels(program: Program, recipe: QuantizeRecipe) -> Levels | None:
    """The levels that a recipe names, of operations that there are."""
    if recipe.layers is None:
        return None
    prepared, where = prepare_for_export(program), "recipe: layers"
    levels = {layer: Level[name.upper()] for layer, name in recipe.layers.items()}
    check_levels(prepared, levels, bit_widths(recipe.precision), where=where)
    for layer in sorted(excluded(prepared.graph, recipe.exclude) & levels.keys()):
        raise EdgevitError(f"{where}: {layer}: `exclude` keeps it float; leave one of them out")
    return levels


def _check_speed(recipe: QuantizeRecipe, ratio: float | None, *, force: bool) -> None:
    # Weights alone are quantized for size; nobody expects them to be faster.
    if ratio is None or ratio <= SLOWER or force or bit_widths(recipe.precision).activations is None:
        return
    raise CheckFailedError(
        f"the quantized model takes {ratio:.2f}x the time of the float one in {recipe.to} on this machine; "
        "use --placement measured, or pass --force to write it all the same"
    )
