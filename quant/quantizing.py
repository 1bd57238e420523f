"""Quantize a Program: observe, equalize, choose grids, learn, and put the quantizers into the graph."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from pydantic import JsonValue

from edgevit import extras
from edgevit.errors import EdgevitError, closest
from edgevit.graph.card import Step
from edgevit.graph.program import Array, Program
from edgevit.graph.rewrites import prepare_for_export
from edgevit.graph.rewrites.spell_out_silu import spell_out_silu
from edgevit.graph.weights import digest
from edgevit.progress import track
from edgevit.quant import nncf_engine
from edgevit.quant.blocks import find_blocks
from edgevit.quant.calibration import Calibration, check_observed, check_weights
from edgevit.quant.checkpoint import Checkpoint
from edgevit.quant.grids import Scheme
from edgevit.quant.insertion import Quantization, insert_quantizers, is_quantized
from edgevit.quant.learning import LearningOptions
from edgevit.quant.levels import Level, Levels, groups, without
from edgevit.quant.observation import Observed, observe
from edgevit.quant.placing import default_placement, excluded, place
from edgevit.quant.precision import bit_widths
from edgevit.quant.presteps import prestep
from edgevit.quant.ranges import Granularity, SchemeChoice, start
from edgevit.quant.reconstruct import BlockResult, Reconstruction
from edgevit.quant.running import Runner, batches
from edgevit.quant.search import Search, SearchOptions
from edgevit.quant.sensitivity import LayerSensitivity, changed, outliers, sensitivities
from edgevit.quant.simulation import Simulation

Method = Literal["minmax", "hessian", "reconstruct"]
Engine = Literal["edgevit", "nncf"]

_SENSITIVITY_IMAGES = 64


@dataclass(frozen=True)
class QuantizeOptions:
    """What a quantization is asked for; `quantize` has the same options.

    Attributes:
        precision: of `edgevit.quant.precision.BIT_WIDTHS`.
        method: "minmax" covers what was seen; "hessian" searches as Q-HyViT does; "reconstruct" learns.
        granularity: of weight scales, "channel", "tensor" or "auto".
        scheme: of activation grids, "auto", "sym" or "asym".
        placement: of `edgevit.quant.placing.PLACEMENTS`; None takes the one for the precision.
        exclude: patterns of layers that stay float.
        max_drop: points of accuracy that may be lost on the calibration images; None sets no floor.
        iterations: of learning, for each block.
        seed: of everything drawn by chance.
        engine: "edgevit", or "nncf", to which `method`, `placement` and `iterations` mean nothing.
    """

    precision: str = "w8a8"
    method: Method = "reconstruct"
    granularity: Granularity = "auto"
    scheme: SchemeChoice = "auto"
    placement: str | None = None
    exclude: tuple[str, ...] = ()
    max_drop: float | None = None
    iterations: int = LearningOptions.iterations
    seed: int = 0
    engine: Engine = "edgevit"


@dataclass(frozen=True)
class QuantizeResult:
    """A quantized Program, and what was found on the way.

    Attributes:
        program: with the quantizers in its graph.
        options: what was asked for.
        levels: of operations, by node name.
        remarks: dead channels, constant activations and the like, one sentence each.
        sensitivity: of every layer that was to be quantized.
        kept_float: layers that stay float, each with the reason.
        smoothed: layers whose input channels were smoothed.
        equalized: layers whose output channels were equalized.
        blocks: what reconstruction did; empty for other methods.
        drop: points of accuracy lost on the calibration images, or, where they have no labels, percent
            of them whose class changed.
        images: how many were used.
        seconds: taken.
        peak_memory_mib: largest memory of the process so far.
    """

    program: Program
    options: QuantizeOptions
    levels: Levels
    remarks: tuple[str, ...]
    sensitivity: tuple[LayerSensitivity, ...]
    kept_float: Mapping[str, str]
    smoothed: tuple[str, ...]
    equalized: tuple[str, ...]
    blocks: tuple[BlockResult, ...]
    drop: float
    images: int
    seconds: float
    peak_memory_mib: float


@dataclass
class _Draft:
    """A quantization in the making."""

    program: Program
    levels: dict[str, Level]
    observed: dict[str, Observed]
    quantization: Quantization
    sensitivity: tuple[LayerSensitivity, ...] = ()
    kept_float: dict[str, str] = field(default_factory=dict)
    smoothed: tuple[str, ...] = ()
    equalized: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def quantize(
    program: Program,
    images: Array,
    *,
    labels: Sequence[int] | None = None,
    precision: str = "w8a8",
    method: Method = "reconstruct",
    granularity: Granularity = "auto",
    scheme: SchemeChoice = "auto",
    placement: str | None = None,
    levels: Levels | None = None,
    exclude: Sequence[str] = (),
    max_drop: float | None = None,
    iterations: int = LearningOptions.iterations,
    seed: int = 0,
    torch_device: str = "cpu",
    checkpoint: str | Path | None = None,
    engine: Engine = "edgevit",
) -> QuantizeResult:
    """Quantize a Program after training.

    Args:
        program: a float Program whose batch is dynamic.
        images: (n, channels, height, width) float32, prepared as the card says; 8 at least, 128 to 1,024
            are usual.
        labels: their class indices, with which `max_drop` is measured.
        precision: "w8a8", "w8a16", "w6a6", "w4a8", "w4a4", or "w8" for weights alone.
        method: "minmax" covers what was seen; "hessian" is Q-HyViT's search (arXiv 2303.12557);
            "reconstruct" learns roundings, scales and biases block by block.
        granularity: one weight scale for each output "channel", or one for the "tensor"; "auto" is
            "channel", and what "hessian" finds best.
        scheme: of activation grids: "sym", "asym", or "auto", which is "asym", and what "hessian" finds
            best.
        placement: "inputs", "layers" or "full" (see `edgevit.quant.placing`); None takes "layers" for 8
            bits and more, and "inputs" below.
        levels: of operations of the prepared graph, in place of a placement.
        exclude: shell patterns of layers that stay float, on node names or module paths.
        max_drop: points of accuracy that may be lost on `images`; layers go back to float, the most
            sensitive first, until it holds. Without labels, percent of images whose class changes.
        iterations: of learning, for each block.
        seed: the same seed gives the same bits on the same machine.
        torch_device: "cpu" or "cuda", where the calibration runs.
        checkpoint: a file with which an interrupted reconstruction goes on; deleted in the end.
        engine: "edgevit", or "nncf" for NNCF's own calibration and placement under the same contract; it
            takes of the options `granularity`, `scheme`, `exclude` and `max_drop`, and refuses the others.

    Raises:
        EdgevitError: when an option is unknown, images or weights are unusable, or the Program is
            quantized already.
    """
    options = QuantizeOptions(
        precision, method, granularity, scheme, placement, tuple(exclude), max_drop, iterations, seed, engine
    )
    check_options(program, options)
    if levels is not None and (placement is not None or exclude):
        raise EdgevitError("levels are given: leave placement and exclude out, which would choose them")
    if engine == "nncf":
        others = {"levels": levels, "checkpoint": checkpoint, "torch_device": torch_device}
        nothing = {"levels": None, "checkpoint": None, "torch_device": "cpu"}
        nncf_engine.check_options(asdict(options) | others, asdict(QuantizeOptions()) | nothing)
    calibration = Calibration.of(program, images, labels)
    started = time.perf_counter()
    with _on(torch_device):
        draft = (
            _nncf_draft(program, calibration, options)
            if engine == "nncf"
            else _draft(program, calibration, options, levels)
        )
        blocks = _improve(draft, calibration, options, checkpoint)
        drop = _meet_floor(draft, calibration, options)
    quantized = insert_quantizers(draft.program, draft.quantization)
    result = QuantizeResult(
        program=quantized,
        options=options,
        levels=draft.quantization.levels,
        remarks=draft.remarks,
        sensitivity=draft.sensitivity,
        kept_float=draft.kept_float,
        smoothed=draft.smoothed,
        equalized=draft.equalized,
        blocks=blocks,
        drop=drop,
        images=len(images),
        seconds=time.perf_counter() - started,
        peak_memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )
    return replace(result, program=_with_step(program, result))


def check_options(program: Program, options: QuantizeOptions) -> None:
    """Refuse what can be refused before any work.

    Raises:
        EdgevitError: naming the option, or what about the program, is wrong.
    """
    bits = bit_widths(options.precision)
    for option, value, choices in (
        ("--engine", options.engine, get_args(Engine)),
        ("--method", options.method, get_args(Method)),
        ("--granularity", options.granularity, get_args(Granularity)),
        ("--scheme", options.scheme, get_args(SchemeChoice)),
    ):
        if value not in choices:
            raise EdgevitError(f"{option}: {value!r} is unknown; {closest(value, choices)}")
    if options.max_drop is not None and options.max_drop < 0:
        raise EdgevitError(
            f"--max-drop: {options.max_drop} is negative; give points of accuracy, such as 0.5"
        )
    if options.iterations < 1:
        raise EdgevitError(f"--iterations: {options.iterations}; at least 1 is needed")
    if bits.activations is None and options.placement is not None:
        raise EdgevitError(
            f"--placement {options.placement}: {options.precision} leaves activations float; leave it out"
        )
    if is_quantized(program):
        raise EdgevitError(f"{program.card.name} is quantized already; start from the float program")
    if program.batch is not None:
        raise EdgevitError(
            f"{program.card.name} was captured for a batch of {program.batch}; "
            "capture it with a dynamic batch"
        )


def check_device(device: str) -> None:
    """Refuse a device that is not here."""
    if device == "cuda" and not torch.cuda.is_available():
        raise EdgevitError("--torch-device cuda: torch sees no CUDA device here; use cpu")
    if device not in ("cpu", "cuda"):
        raise EdgevitError(f"--torch-device: {device!r} is unknown; {closest(device, ('cpu', 'cuda'))}")


@contextmanager
def _on(device: str) -> Iterator[None]:
    """Everything made inside lies on the device."""
    check_device(device)
    with torch.device(device):
        yield


def _draft(
    program: Program, calibration: Calibration, options: QuantizeOptions, levels: Levels | None
) -> _Draft:
    """Grids that cover what was seen, smoothed and equalized, the worst outliers left float."""
    bits = bit_widths(options.precision)
    remarks = check_weights(program)
    placement = options.placement or default_placement(bits)
    prepared = prepare_for_export(program)
    if placement == "full":
        prepared = spell_out_silu(prepared)
    if levels is None:
        levels = place(prepared.graph, placement, bits, options.exclude)
    observed = _observe(prepared, levels, calibration)
    remarks += check_observed(prepared, observed)
    draft = _Draft(prepared, dict(levels), observed, _start(prepared, levels, observed, options))
    draft.remarks = remarks
    draft.sensitivity = _sensitivity(draft, calibration)
    if bits.activations is not None:
        _prestep(draft, calibration, options)
    for layer in outliers(draft.sensitivity):
        _keep_float(draft, layer, "its quantization alone does most of the damage")
    draft.quantization = _start(draft.program, draft.levels, draft.observed, options)
    return draft


def _sensitivity(draft: _Draft, calibration: Calibration) -> tuple[LayerSensitivity, ...]:
    images = calibration.images[:_SENSITIVITY_IMAGES].to(torch.get_default_device())
    return sensitivities(draft.program, draft.quantization, images)


def _prestep(draft: _Draft, calibration: Calibration, options: QuantizeOptions) -> None:
    """Smooth and equalize, and look again at what changed by it."""
    damage = {item.layer: item.divergence for item in draft.sensitivity}
    images = calibration.images[:_SENSITIVITY_IMAGES].to(torch.get_default_device())
    found = prestep(
        draft.program,
        draft.levels,
        observed=draft.observed,
        damage=damage,
        images=images,
        bits=bit_widths(options.precision),
        scheme=options.scheme,
    )
    if found.program is draft.program:
        return
    draft.program, draft.levels = found.program, dict(found.levels)
    draft.smoothed, draft.equalized = found.smoothed, found.equalized
    draft.observed = _observe(draft.program, draft.levels, calibration)
    draft.quantization = _start(draft.program, draft.levels, draft.observed, options)
    draft.sensitivity = _sensitivity(draft, calibration)


def _nncf_draft(program: Program, calibration: Calibration, options: QuantizeOptions) -> _Draft:
    """What NNCF decides; weights, activations and sensitivities are looked at as for any other engine."""
    remarks = check_weights(program)
    prepared = prepare_for_export(program)
    wanted = place(prepared.graph, "inputs", bit_widths(options.precision), options.exclude)
    remarks += check_observed(prepared, _observe(prepared, wanted, calibration))
    found = nncf_engine.quantize_with_nncf(
        prepared,
        calibration.images,
        ignored=excluded(prepared.graph, options.exclude),
        granularity=options.granularity,
        scheme=options.scheme,
    )
    return _Draft(
        found.program,
        dict(found.quantization.levels),
        {},
        found.quantization,
        sensitivity=sensitivities(
            found.program, found.quantization, calibration.images[:_SENSITIVITY_IMAGES]
        ),
        kept_float=dict.fromkeys(found.left_float, "NNCF leaves it float"),
        remarks=remarks + found.remarks,
    )


def _observe(program: Program, levels: Levels, calibration: Calibration) -> dict[str, Observed]:
    names = [name for group in groups(program.graph, levels) for name in group.values]
    return observe(program, calibration.images, names)


def _start(
    program: Program, levels: Levels, observed: Mapping[str, Observed], options: QuantizeOptions
) -> Quantization:
    return start(
        program,
        levels,
        observed,
        bit_widths(options.precision),
        granularity=options.granularity,
        scheme=options.scheme,
    )


def _keep_float(draft: _Draft, layer: str, reason: str) -> None:
    draft.levels = without(draft.program.graph, draft.levels, layer)
    draft.kept_float[layer] = reason


def _improve(
    draft: _Draft, calibration: Calibration, options: QuantizeOptions, path: str | Path | None
) -> tuple[BlockResult, ...]:
    """Search or learn, as the method says."""
    if options.engine == "nncf" or options.method == "minmax" or not draft.quantization.weights:
        return ()
    if options.method == "hessian":
        draft.quantization = _searched(draft, calibration, options)
        return ()
    quantized = insert_quantizers(draft.program, draft.quantization)
    simulation = Simulation(draft.program, quantized, draft.quantization)
    checkpoint = None if path is None else Checkpoint(Path(path), _run_of(draft, calibration, options))
    blocks = find_blocks(draft.program)
    images = calibration.images.to(torch.get_default_device())
    learning = LearningOptions(iterations=options.iterations, seed=options.seed)
    reconstruction = Reconstruction(draft.program, simulation, blocks, images, learning)
    done = () if checkpoint is None else checkpoint.read(simulation)
    results = list(done)
    for result in track(reconstruction.run(len(done)), "reconstructing", len(blocks) - len(done)):
        results.append(result)
        if checkpoint is not None:
            checkpoint.write(simulation, results)
    draft.quantization = simulation.finished()
    if checkpoint is not None:
        checkpoint.remove()
    return tuple(results)


def _searched(draft: _Draft, calibration: Calibration, options: QuantizeOptions) -> Quantization:
    schemes: tuple[Scheme, ...] = ("asym", "sym") if options.scheme == "auto" else (options.scheme,)
    per_channel = {"auto": (True, False), "channel": (True,), "tensor": (False,)}[options.granularity]
    search = Search(
        draft.program,
        draft.quantization,
        observed=draft.observed,
        blocks=find_blocks(draft.program),
        images=calibration.images.to(torch.get_default_device()),
        bits=bit_widths(options.precision),
        options=SearchOptions(per_channel=per_channel, schemes=schemes),
    )
    return search.run()


def _run_of(draft: _Draft, calibration: Calibration, options: QuantizeOptions) -> str:
    """What has to be equal for one run to continue another."""
    weights = digest(draft.program.exported.state_dict.items())
    images = digest([("images", calibration.images)])
    return f"{weights} {images} {options} {sorted(draft.levels.items())}"


def _meet_floor(draft: _Draft, calibration: Calibration, options: QuantizeOptions) -> float:
    """Let layers go back to float, the most sensitive first, until no more is lost than may be."""
    reference = _predict(draft.program, calibration.images)
    drop = _drop(draft, calibration, reference)
    waiting = sorted(
        (item for item in draft.sensitivity if item.layer in draft.quantization.weights),
        key=lambda item: -item.divergence,
    )
    step = 1
    while options.max_drop is not None and drop > options.max_drop and draft.levels:
        for item in waiting[:step]:
            _keep_float(draft, item.layer, f"--max-drop {options.max_drop:g}")
        waiting, step = waiting[step:], step + 1
        if not waiting:
            # With the last layer goes what computes on integers between them.
            draft.levels = {}
        draft.quantization = _without(draft)
        drop = _drop(draft, calibration, reference)
    return drop


def _without(draft: _Draft) -> Quantization:
    """What was learned, for the layers that are still quantized."""
    old = draft.quantization
    needed = {name for group in groups(draft.program.graph, draft.levels) for name in group.values}
    return Quantization(
        dict(draft.levels),
        {name: grid for name, grid in old.activations.items() if name in needed},
        {name: weight for name, weight in old.weights.items() if name in draft.levels},
        {name: bias for name, bias in old.biases.items() if name in draft.levels},
    )


def _drop(draft: _Draft, calibration: Calibration, reference: torch.Tensor) -> float:
    logits = _predict(insert_quantizers(draft.program, draft.quantization), calibration.images)
    if calibration.labels is None:
        return changed(reference, logits)
    right = [float((found.argmax(-1) == calibration.labels).float().mean()) for found in (reference, logits)]
    return 100.0 * (right[0] - right[1])


def _predict(program: Program, images: torch.Tensor) -> torch.Tensor:
    runner = Runner(program)
    result = runner.results[0]
    with torch.no_grad():
        parts = [runner.run({runner.image: part}, [result])[result] for part in batches(images)]
    return torch.cat(parts)


def _with_step(original: Program, result: QuantizeResult) -> Program:
    """The program with the whole quantization as one step on its card, in place of the rewrites' own."""
    options: dict[str, JsonValue] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(result.options).items()
        if result.options.engine == "edgevit" or name in nncf_engine.OPTIONS
    }
    if result.options.engine == "nncf":
        options["nncf"] = extras.version_of("nncf")
    measured: dict[str, JsonValue] = {
        "images": result.images,
        "drop": round(result.drop, 3),
        "kept_float": dict(result.kept_float),
        "seconds": round(result.seconds, 1),
        "peak_memory_mib": round(result.peak_memory_mib),
    }
    card = original.card.with_step(Step(name="quantize", options=options, measured=measured))
    return Program(result.program.exported, card.model_copy(update={"outputs": result.program.card.outputs}))
