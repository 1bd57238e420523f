"""Quantize a Program: observe, equalize, choose grids, learn, and put the quantizers into the graph."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import JsonValue

from edgevit import extras
from edgevit.errors import EdgevitError
from edgevit.graph.card import Step
from edgevit.graph.devices import moved, on
from edgevit.graph.program import Array, Program
from edgevit.graph.weights import digest
from edgevit.progress import track
from edgevit.quant import nncf_engine
from edgevit.quant.bias_correction import correct_biases
from edgevit.quant.blocks import find_blocks
from edgevit.quant.calibration import Calibration
from edgevit.quant.checkpoint import checkpoint_at, go_on, keep
from edgevit.quant.drafting import Draft, drafted, drafted_by_nncf, put_back
from edgevit.quant.floor import Floor
from edgevit.quant.grids import Scheme
from edgevit.quant.insertion import Quantization, insert_quantizers
from edgevit.quant.learning import LearningOptions
from edgevit.quant.levels import Levels
from edgevit.quant.narrowing import narrow
from edgevit.quant.options import Engine, Fallback, Method, QuantizeOptions, check_options
from edgevit.quant.precision import bit_widths
from edgevit.quant.ranges import Granularity, SchemeChoice
from edgevit.quant.reconstruct import BlockResult, Reconstruction
from edgevit.quant.search import Search, SearchOptions
from edgevit.quant.sensitivity import LayerSensitivity
from edgevit.quant.simulation import Simulation
from edgevit.quant.widening import Widening


@dataclass(frozen=True)
class QuantizeResult:
    """A quantized Program, and what was found on the way.

    Attributes:
        program: with the quantizers in its graph.
        options: what was asked for.
        levels: of operations, by node name.
        remarks: dead channels, constant activations and the like, one sentence each.
        sensitivity: of every layer that was to be quantized.
        widened: layers that read 16 bits so that `max_drop` holds.
        kept_float: layers that stay float, each with the reason.
        smoothed: layers whose input channels were smoothed.
        equalized: layers whose output channels were equalized.
        decomposed: layers whose outlier channels are multiplied apart, each with these channels.
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
    widened: tuple[str, ...]
    kept_float: Mapping[str, str]
    smoothed: tuple[str, ...]
    equalized: tuple[str, ...]
    decomposed: Mapping[str, tuple[int, ...]]
    blocks: tuple[BlockResult, ...]
    drop: float
    images: int
    seconds: float
    peak_memory_mib: float


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
    fallback: Fallback | None = None,
    spare: bool = True,
    gains: Mapping[str, float] | None = None,
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
        placement: "inputs", "layers", "full" or "dynamic" (see `edgevit.quant.placing`); None takes "layers"
            for 8 bits and more, and "inputs" below.
        levels: of operations of the prepared graph, in place of a placement.
        exclude: shell patterns of layers that stay float, on node names or module paths.
        max_drop: points of accuracy that may be lost on `images`; layers fall back, the most sensitive
            first, until it holds. Without labels, percent of images whose class changes.
        iterations: of learning, for each block.
        seed: the same seed gives the same bits on the same machine.
        torch_device: "cpu" or "cuda", where the calibration runs.
        checkpoint: a file with which an interrupted reconstruction goes on; deleted in the end.
        engine: "edgevit", or "nncf" for NNCF's own calibration and placement under the same contract; it
            takes of the options `granularity`, `scheme`, `exclude` and `max_drop`, and refuses the others.
        fallback: "int16" gives layers 16-bit activations and 8-bit weights before any goes back to "float";
            None takes "int16" with placement "full", where a float among integers costs two conversions,
            and "float" otherwise.
        spare: leave layers float that do most of the damage, or much of it for what they save.
        gains: milliseconds that the quantization of each layer in `levels` saves, by node name, with which
            `spare` reckons, and not with multiplications; and layers fall back in the order of the damage
            that they do for each millisecond.

    Raises:
        EdgevitError: when an option is unknown, an operation cannot have the level that it is given, images
            or weights are unusable, or the Program is quantized already.
    """
    options = QuantizeOptions(
        precision,
        method,
        granularity,
        scheme,
        placement,
        tuple(exclude),
        max_drop,
        iterations,
        seed,
        engine,
        fallback,
        spare,
    )
    check_options(program, options)
    if levels is not None and (placement is not None or exclude):
        raise EdgevitError("levels are given: leave placement and exclude out, which would choose them")
    if gains is not None and levels is None:
        raise EdgevitError("gains are given without levels, on which they depend: give both")
    if engine == "nncf":
        others = {"levels": levels, "checkpoint": checkpoint, "torch_device": torch_device}
        nothing = {"levels": None, "checkpoint": None, "torch_device": "cpu"}
        nncf_engine.check_options(asdict(options) | others, asdict(QuantizeOptions()) | nothing)
    calibration = Calibration.of(program, images, labels)
    started = time.perf_counter()
    with on(torch_device):
        calibration = calibration.on(torch_device)
        given = program if torch_device == "cpu" else moved(program, torch_device)
        draft = (
            drafted_by_nncf(given, calibration, options)
            if engine == "nncf"
            else drafted(given, calibration, options, levels, gains)
        )
        blocks = _improve(draft, calibration, options, checkpoint)
        drop = _meet_floor(draft, calibration, options)
        put_back(draft)
        quantized = insert_quantizers(draft.program, draft.quantization)
    if torch_device != "cpu":
        quantized = moved(quantized, "cpu")
    result = QuantizeResult(
        program=quantized,
        options=options,
        levels=draft.quantization.levels,
        remarks=draft.remarks,
        sensitivity=draft.sensitivity,
        widened=draft.widened,
        kept_float=draft.kept_float,
        smoothed=draft.smoothed,
        equalized=draft.equalized,
        decomposed=draft.decomposed,
        blocks=blocks,
        drop=drop,
        images=len(images),
        seconds=time.perf_counter() - started,
        peak_memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )
    return replace(result, program=_with_step(program, result))


def _improve(
    draft: Draft, calibration: Calibration, options: QuantizeOptions, path: str | Path | None
) -> tuple[BlockResult, ...]:
    """Search or learn, as the method says, and correct biases."""
    if options.engine == "nncf" or not draft.quantization.weights:
        return ()
    if options.method == "hessian":
        draft.quantization = _searched(draft, calibration, options)
    elif options.method == "reconstruct":
        draft.quantization = narrow(
            draft.program, draft.quantization, calibration.images, scheme=options.scheme, seed=options.seed
        )
    draft.quantization = correct_biases(draft.program, draft.quantization, calibration.images)
    return _reconstructed(draft, calibration, options, path) if options.method == "reconstruct" else ()


def _reconstructed(
    draft: Draft, calibration: Calibration, options: QuantizeOptions, path: str | Path | None
) -> tuple[BlockResult, ...]:
    """Learn block by block."""
    quantized = insert_quantizers(draft.program, draft.quantization)
    simulation = Simulation(draft.program, quantized, draft.quantization)
    checkpoint = None if path is None else checkpoint_at(Path(path), _run_of(draft, calibration, options))
    blocks = find_blocks(draft.program)
    learning = LearningOptions(iterations=options.iterations, seed=options.seed)
    reconstruction = Reconstruction(draft.program, simulation, blocks, calibration.images, learning)
    done = () if checkpoint is None else go_on(checkpoint, simulation)
    results = list(done)
    for result in track(reconstruction.run(len(done)), "reconstructing", len(blocks) - len(done)):
        results.append(result)
        if checkpoint is not None:
            keep(checkpoint, simulation, results)
    draft.quantization = simulation.finished()
    if checkpoint is not None:
        checkpoint.remove()
    return tuple(results)


def _searched(draft: Draft, calibration: Calibration, options: QuantizeOptions) -> Quantization:
    schemes: tuple[Scheme, ...] = ("asym", "sym") if options.scheme == "auto" else (options.scheme,)
    per_channel = {"auto": (True, False), "channel": (True,), "tensor": (False,)}[options.granularity]
    search = Search(
        draft.program,
        draft.quantization,
        observed=draft.observed,
        blocks=find_blocks(draft.program),
        images=calibration.images,
        bits=bit_widths(options.precision),
        options=SearchOptions(per_channel=per_channel, schemes=schemes),
    )
    return search.run()


def _run_of(draft: Draft, calibration: Calibration, options: QuantizeOptions) -> str:
    """What has to be equal for one run to continue another."""
    weights = digest(draft.program.exported.state_dict.items())
    images = digest([("images", calibration.images)])
    return f"{weights} {images} {options} {sorted(draft.levels.items())}"


def _meet_floor(draft: Draft, calibration: Calibration, options: QuantizeOptions) -> float:
    """Let layers fall back until no more is lost than `max_drop` allows; what is lost then."""
    widening = Widening(draft.program, draft.observed, options.granularity) if options.widens else None
    floor = Floor(draft.program, calibration, options.max_drop, widening)
    found = floor.meet(draft.quantization, draft.sensitivity, draft.gains)
    draft.quantization, draft.widened = found.quantization, found.widened
    draft.kept_float |= found.kept_float
    return found.drop


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
        "widened": list(result.widened),
        "kept_float": dict(result.kept_float),
        "seconds": round(result.seconds, 1),
        "peak_memory_mib": round(result.peak_memory_mib),
    }
    card = original.card.with_step(Step(name="quantize", options=options, measured=measured))
    return Program(result.program.exported, card.model_copy(update={"outputs": result.program.card.outputs}))
