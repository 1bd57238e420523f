"""The best submodel within a budget, in files: judged, measured, and written with what else was found."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch

from edgevit.compression import MEASURED, compress
from edgevit.errors import CheckFailedError, EdgevitError
from edgevit.files import staged_folder
from edgevit.graph.program import Array, Program
from edgevit.graph.rewrites import prepare_for_export
from edgevit.images import OnBadImage
from edgevit.measured_submodels import check_equal, drawn_from, output_at
from edgevit.prediction.clock import PredictedClock
from edgevit.profiles import DeviceProfile, load_profile
from edgevit.profiling.addresses import LOCAL, Remote, address_of
from edgevit.profiling.quantized import measure_placement, with_levels
from edgevit.profiling.relative import machine, timed_here
from edgevit.profiling.submodels import Clock, LatencyTable, Stopwatch, measure_choices, time_of
from edgevit.pruning.parts import costs_of
from edgevit.quant.levels import Levels
from edgevit.quant.placing import default_placement, place
from edgevit.quant.precision import BitWidths, bit_widths
from edgevit.quant.ranges import Granularity, SchemeChoice
from edgevit.recipe import QuantizeRecipe
from edgevit.report.budget import render
from edgevit.submodels.costing import Bytes, Cost, Counted
from edgevit.submodels.extraction import extract, refitted
from edgevit.submodels.nesting import nesting_of
from edgevit.submodels.precision import Quantizer, integer_layers, levels_left
from edgevit.submodels.search import Candidate, Search, frontier, within

Of = Literal["macs", "bytes", "latency"]

# Of the images that layers are fitted with, one in so many is judged on in a search.
_JUDGING = 4
# What a measured latency may be above its budget.
_NEAR = 1.1
# Choices save together what they save alone, but for some percent: those are found by measuring the result.
_MEASUREMENTS = 4


@dataclass(frozen=True)
class Latency:
    """What was measured, or predicted, of a submodel that is to hold a latency.

    Attributes:
        format: in whose runtime, on one thread.
        device: where.
        whole_ms: p50 of the parent's artefact by itself.
        expected_ms: what the submodel's choices add up to.
        p50_ms: of the submodel's artefact by itself.
        interval_ms: between which that lies for nine models of ten; None where it was measured, or nothing
            says how far a prediction is off.
        predicted: whether it was not measured.
        warning: what else must be known of it; None for nothing.
    """

    format: str
    device: str
    whole_ms: float
    expected_ms: float
    p50_ms: float
    interval_ms: tuple[float, float] | None
    predicted: bool
    warning: str | None


@dataclass(frozen=True)
class Budgeted:
    """What `search_file` found.

    Attributes:
        path: of the submodel.
        report: the same figures as here, as JSON.
        page: and as a page.
        program: the submodel, as at `path`.
        of: what has the budget.
        budget: multiply-accumulates for one image, bytes of weights, or nanoseconds.
        candidates: the submodel, and what simpler ways find, the best first.
        frontier: the best at other budgets by the sum of sensitivities, and what simpler ways find there.
        whole: the cost of the parent, in integers where these are asked for.
        images: on which they were judged.
        evaluations: how many submodels the search judged.
        bytes: of weights of what is written.
        divergence: KL(parent || submodel) in nats of what is written, its layers fitted and, where that is
            asked for, quantized, on the same images.
        latency: what was measured; None without a budget of latency.
        precision: of weights and activations; None where they are float.
    """

    path: Path
    report: Path
    page: Path
    program: Program
    of: Of
    budget: int
    candidates: tuple[Candidate, ...]
    frontier: tuple[Candidate, ...]
    whole: int
    images: int
    evaluations: int
    bytes: int
    divergence: float
    latency: Latency | None
    precision: str | None


def search_file(
    program: Program | str | Path,
    budget: int,
    *,
    of: Of,
    calib: str | Path,
    output: str | Path,
    to: str = "onnx",
    device: str = LOCAL,
    remote: Remote | None = None,
    recipe: QuantizeRecipe | None = None,
    images: int = 256,
    evaluations: int = 64,
    seed: int = 0,
    on_bad_image: OnBadImage = "fail",
    force: bool = False,
) -> Budgeted:
    """Find the submodel of a nested Program that is best within a budget, and write it, its layers fitted.

    Args:
        program: a nested Program, or its ``.pt2``.
        budget: what the submodel may cost.
        of: multiply-accumulates for one image, "macs", "bytes" of weights, or nanoseconds of p50 on one
            thread, "latency".
        calib: a folder of images: submodels are judged on a quarter of those that are drawn, by how far their
            predictions are from the parent's, and the layers of the one that is found are fitted with all.
        output: the ``.pt2`` file to write; what was judged is written beside it, as ``.budget.json`` and
            ``.budget.html``.
        to: the format whose runtime is timed, for a budget of latency.
        device: where, as `edgevit.profiling.profile` takes it; or the name or the file of a device profile
            with measured operators, for which it is predicted.
        remote: how a device is used that is not this machine.
        recipe: how the submodel is quantized; its bytes or its latency are then those of integers, placed
            where they pay in the parent, but for the layers that the search leaves float. Submodels are
            judged in integers as well. It decides about `to`. None leaves it float.
        images: of the folder, drawn by chance.
        evaluations: of changes to the best that sensitivities say.
        seed: of all that is drawn.
        on_bad_image: "fail" or "skip".
        force: replace what is there; write a submodel that turned out to be above its budget.

    Raises:
        EdgevitError: when the Program is not nested, its smallest submodel costs more, a recipe cannot be
            followed, or a device cannot be used.
        CheckFailedError: when the latency that comes of it is more than a tenth above the budget, or its
            bytes are above it.
    """
    path = output_at(output, _report_beside, _page_beside, force=force)
    to = to if recipe is None else recipe.to
    clock = _clock(device, remote, to) if of == "latency" else None
    parent = program if isinstance(program, Program) else Program.load(program)
    nesting_of(parent)
    bits = None if recipe is None else _Bits.of(parent, recipe, of, device)
    read = drawn_from(parent, calib, images, seed, on_bad_image)
    cost = _cost(parent, of, to, clock, bits)
    judged = read[::_JUDGING]
    quantizer = None if bits is None else bits.quantizer(parent, judged)
    search = Search(parent, judged, cost=cost, quantizer=quantizer, seed=seed)
    _check_possible(search, of, budget)
    latency = None
    if isinstance(cost, LatencyTable):
        candidates, made, latency = _within_latency(search, cost, budget, evaluations, read, bits=bits)
        _check_latency(latency, budget, force=force)
    else:
        candidates, made = _found(search, budget, evaluations, read)
    others = frontier(search)
    with staged_folder(path.parent) as stage:
        if bits is None:
            made.save(stage / path.name)
        else:
            kept_float = _searched(candidates).kept_float
            made = bits.compressed(
                made, kept_float, calib, stage / path.name, on_bad_image=on_bad_image, force=force
            )
            if of == "bytes":
                _check_bytes(costs_of(made)[1], budget, force=force)
        result = Budgeted(
            path=path,
            report=_report_beside(path),
            page=_page_beside(path),
            program=made,
            of=of,
            budget=budget,
            candidates=tuple(candidates),
            frontier=tuple(others),
            whole=search.cost(search.whole),
            images=len(search.images),
            evaluations=search.evaluations,
            bytes=costs_of(made)[1],
            divergence=search.divergence_of(made),
            latency=latency,
            precision=None if recipe is None else recipe.precision,
        )
        _report(stage, result)
    return result


def _report(folder: Path, result: Budgeted) -> None:
    values = summary(result)
    (folder / result.report.name).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    (folder / result.page.name).write_text(render(values), encoding="utf-8")


def _searched(candidates: Sequence[Candidate]) -> Candidate:
    """The one that is written."""
    return next(one for one in candidates if one.name == "search")


@dataclass(frozen=True)
class _Bits:
    """How submodels are quantized, where no layer is left float.

    Attributes:
        recipe: with a level for each operation, so that nothing is placed anew, and none left float that
            the search did not leave float.
        levels: the same.
        widths: of weights and activations.
        layers: node names of the layers that have a level, in the order of the network.
    """

    recipe: QuantizeRecipe
    levels: Levels
    widths: BitWidths
    layers: tuple[str, ...]

    @classmethod
    def of(cls, parent: Program, recipe: QuantizeRecipe, of: Of, device: str) -> _Bits:
        """Where integers pay in the parent, or where the recipe wants them."""
        if recipe.placement == MEASURED and device != LOCAL:
            raise EdgevitError(
                f"--placement measured --device {device}: placements are measured on this machine; "
                "name another"
            )
        widths = bit_widths(recipe.precision)
        if of == "macs" or widths.weights != 8 or recipe.engine != "edgevit":
            raise EdgevitError(
                f"--quantize {recipe.precision} with a budget: bytes and latency can be held with weights of "
                "8 bits by edgevit's own engine; take the submodel out first, then compress that"
            )
        if recipe.max_drop is not None:
            raise EdgevitError(
                f"--max-drop {recipe.max_drop:g} with a budget: layers that fell back would break it, and "
                "the search decides which are float; leave it out, or take the submodel out first"
            )
        prepared = prepare_for_export(parent)
        measured = recipe.placement in {None, MEASURED} and device == LOCAL
        if measured and widths.activations == 8 and timed_here(recipe.to):
            levels = measure_placement(parent, to=recipe.to, bits=widths, exclude=recipe.exclude).levels
        else:
            placement = recipe.placement or default_placement(widths)
            levels = place(prepared.graph, placement, widths, recipe.exclude)
        update = {"layers": _named(levels), "placement": None, "spare": False}
        recipe = recipe.model_copy(update=update)
        return cls(recipe, levels, widths, integer_layers(prepared, levels))

    def quantizer(self, parent: Program, images: Array) -> Quantizer:
        """What makes of submodels what they are judged as."""
        return Quantizer(
            parent,
            self.levels,
            self.widths,
            torch.from_numpy(images),
            granularity=cast(Granularity, self.recipe.granularity),
            scheme=cast(SchemeChoice, self.recipe.scheme),
        )

    def made(self, program: Program, kept_float: Collection[str]) -> Program:
        """As fast and as large as the submodel will be."""
        return with_levels(program, levels_left(program, self.levels, kept_float), self.widths)

    def compressed(
        self,
        program: Program,
        kept_float: Collection[str],
        calib: str | Path,
        output: Path,
        *,
        on_bad_image: OnBadImage,
        force: bool,
    ) -> Program:
        """A submodel quantized and written, with its recipe and its report; it has not all operations."""
        levels = levels_left(program, self.levels, kept_float)
        recipe = self.recipe.model_copy(update={"layers": _named(levels)})
        made = compress(
            program, calib=calib, output=output, recipe=recipe, on_bad_image=on_bad_image, force=force
        )
        return made.quantization.program


def _named(levels: Levels) -> dict[str, str]:
    """Levels as recipes spell them; what is float has none."""
    return {name: level.name.lower() for name, level in levels.items()}


def _clock(device: str, remote: Remote | None, to: str) -> Clock:
    """What says how long artefacts take on a device: it runs there, or is predicted."""
    clock: Clock
    if device == LOCAL or "://" in device:
        address_of(device)
        clock = Stopwatch(device, remote)
    elif remote not in {None, Remote()}:
        raise EdgevitError(
            f"--device {device}: is a device profile, nothing runs there; leave out --python, --ssh-config, "
            "--remote-folder and --benchmark-model, or give ssh://user@host[:port] or adb://SERIAL"
        )
    else:
        clock = PredictedClock(_profile_of(device), to)
    clock.check(to)
    return clock


def _profile_of(device: str) -> DeviceProfile:
    try:
        return load_profile(device)
    except EdgevitError as error:
        raise EdgevitError(
            f"--device: {error}; a place to run is ssh://user@host[:port] or adb://SERIAL"
        ) from error


def _cost(parent: Program, of: Of, to: str, clock: Clock | None, bits: _Bits | None) -> Cost:
    if clock is not None:
        if bits is None:
            return measure_choices(parent, to, clock)
        return measure_choices(parent, to, clock, made=bits.made, layers=bits.layers)
    if of == "macs":
        return Counted(parent, "macs")
    return Bytes(parent, {} if bits is None else bits.levels)


def _report_beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}.budget.json")


def _page_beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}.budget.html")


def _found(search: Search, budget: int, evaluations: int, images: Array) -> tuple[list[Candidate], Program]:
    """What was judged, and the best of it with its layers fitted."""
    candidates = within(search, budget, evaluations=evaluations)
    chosen = _searched(candidates)
    small = extract(search.parent, chosen.widths)
    check_equal(search.parent, small, chosen.widths)
    if nesting_of(search.parent).fits:
        small = refitted(search.parent, chosen.widths, torch.from_numpy(images))
    return candidates, small


def _within_latency(
    search: Search, table: LatencyTable, budget: int, evaluations: int, images: Array, *, bits: _Bits | None
) -> tuple[list[Candidate], Program, Latency]:
    """What was judged, and the best whose artefact holds the budget by itself."""
    allowed = budget
    for _ in range(_MEASUREMENTS):
        candidates, fitted = _found(search, allowed, evaluations, images)
        chosen = _searched(candidates)
        made = fitted if bits is None else bits.made(fitted, chosen.kept_float)
        found = time_of(made, table.format, table.clock)
        taken = found.p50_ms
        latency = Latency(
            format=table.format,
            device=table.clock.device,
            whole_ms=table.whole_ms,
            expected_ms=chosen.cost / 1e6,
            p50_ms=taken,
            interval_ms=found.interval_ms,
            predicted=isinstance(table.clock, PredictedClock),
            warning=found.warning,
        )
        if taken * 1e6 <= budget or allowed == search.cost(search.cheapest):
            break
        # What is over by so much is sought so much lower.
        allowed = max(search.cost(search.cheapest), int(allowed * budget / (taken * 1e6)))
    return candidates, fitted, latency


def _check_possible(search: Search, of: Of, budget: int) -> None:
    least, name = search.cost(search.cheapest), search.parent.card.name
    if least <= budget:
        return
    if of == "latency":
        raise EdgevitError(
            f"--latency-budget {budget / 1e6:g}ms: cannot be met: the choices of the smallest submodel of "
            f"{name} add up to {least / 1e6:.3g} ms"
        )
    option, unit = {
        "macs": ("--flops-budget", "multiply-accumulates"),
        "bytes": ("--size-budget", "bytes of weights"),
    }[of]
    raise EdgevitError(
        f"{option}: {budget:,} cannot be met: the smallest submodel of {name} has {least:,} {unit}, "
        f"{least - budget:,} more"
    )


def _check_latency(latency: Latency, budget: int, *, force: bool) -> None:
    if latency.p50_ms * 1e6 <= _NEAR * budget or force:
        return
    busy = "" if latency.warning is None else f"; {latency.warning}"
    guessed = ", as predicted," if latency.predicted else ""
    raise CheckFailedError(
        f"--latency-budget {budget / 1e6:g}ms: the best submodel found takes {latency.p50_ms:.3g} ms"
        f"{guessed} in {latency.format} on {latency.device}, where its choices add up to "
        f"{latency.expected_ms:.3g}{busy}; allow more, or pass --force to write it all the same"
    )


def _check_bytes(taken: int, budget: int, *, force: bool) -> None:
    """Factors that smooth activations are stored as well, and not known before it is quantized."""
    if taken > budget and not force:
        raise CheckFailedError(
            f"--size-budget: the submodel found takes {taken:,} bytes once it is quantized, "
            f"{taken - budget:,} more than {budget:,}; ask for so many fewer, or pass --force to write it "
            "all the same"
        )


def summary(result: Budgeted) -> dict[str, Any]:
    """Everything that was measured, as plain values."""
    return {
        "version": 3,
        "machine": machine(),
        "model": result.program.card.name,
        "program": result.path.name,
        "of": result.of,
        "precision": result.precision,
        "budget": result.budget,
        "whole": result.whole,
        "images": result.images,
        "evaluations": result.evaluations,
        "bytes": result.bytes,
        "divergence": result.divergence,
        "latency": None if result.latency is None else asdict(result.latency),
        "candidates": [asdict(one) for one in result.candidates],
        "frontier": [asdict(one) for one in result.frontier],
    }
