"""ONNX: written by torch's exporter from the Program's graph, described, sealed, and checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import JsonValue

from edgevit import extras
from edgevit.errors import EdgevitError
from edgevit.export.integer_ends import requantize_ends
from edgevit.export.metadata import ArtefactInfo, Precision, TensorInfo
from edgevit.export.onnx.check import SEALED, sealed
from edgevit.export.quantized import (
    check_same,
    check_static,
    describe,
    has_int16,
    parameters_of,
    saturate_narrow_grids,
    store_constants,
)
from edgevit.extras import version_of
from edgevit.files import sha256_of
from edgevit.graph.program import Program
from edgevit.graph.rewrites import prepare_for_export
from edgevit.graph.rewrites.spell_out_for_onnx import spell_out_for_onnx
from edgevit.quant.insertion import is_quantized

if TYPE_CHECKING:
    import onnx_ir as ir

OnnxPrecision = Literal["fp32", "fp16"]
Opset = Literal[20, 23, "fastest"]
Optimize = Literal["ort"]

# The opset that runtimes from two years ago know, and the first with an Attention operator.
OPSET: Literal[20] = 20
ATTENTION_OPSET: Literal[23] = 23
# Protobuf counts a message's bytes in 31 bits.
_LARGEST_FILE = 2**31 - 1


@dataclass(frozen=True)
class _Candidate:
    """A finished file in memory, and what is to be told of it."""

    content: bytes
    model: ir.Model
    options: dict[str, JsonValue] = field(default_factory=dict)


def to_onnx(
    program: Program,
    path: Path,
    *,
    batch: int | Literal["dynamic"] = 1,
    precision: OnnxPrecision = "fp32",
    opset: Opset = OPSET,
    optimize: Optimize | None = None,
    check_opencv: bool = False,
) -> ArtefactInfo:
    """Write an ONNX file with weights, card and its own SHA-256 inside.

    Args:
        program: what to export.
        path: the ``.onnx`` file to write.
        batch: a fixed batch size, or "dynamic".
        precision: of weights and arithmetic; input and outputs are float32 either way.
        opset: 20, which the most runtimes know; 23, which has attention as one operator; or "fastest":
            both are timed in ONNX Runtime on this machine, and 23 is kept where it is clearly faster.
        optimize: "ort" fuses operators into ONNX Runtime's own, which nothing else runs.
        check_opencv: also run the file in OpenCV's dnn, and record what came of it.

    Returns:
        What the file holds; its options say what was chosen and measured.

    Raises:
        EdgevitError: when an option is unknown, or the graph cannot be written as ONNX so.
        MissingDependencyError: without the ``onnx`` extra.
    """
    _check_options(program, batch, precision, opset, optimize)
    extras.require("onnx", "ONNX export")
    given = program
    program = prepare_for_export(program if batch == "dynamic" else program.with_batch(batch))
    program = spell_out_for_onnx(saturate_narrow_grids(store_constants(requantize_ends(program))))
    if opset == "fastest":
        written = _fastest(program, precision)
    else:
        written = _candidate(program, opset, precision, optimize)
    path.write_bytes(written.content)
    options: dict[str, JsonValue] = {**written.options, "batch": batch}
    if is_quantized(given):
        options |= _checked(requantize_ends(given), path)
    if check_opencv:
        from edgevit.export.onnx.opencv import opencv_verdict

        options["opencv"] = str(opencv_verdict(path))
    return _info(path, written.model, "int8" if is_quantized(given) else precision, options)


def _checked(program: Program, path: Path) -> dict[str, JsonValue]:
    """What a quantized file holds, after comparing it to the bit with what the Program does."""
    from edgevit.export.onnx.quantized import kernels, parameters_in

    check_same(parameters_of(program), parameters_in(path.read_bytes()), path.name)
    return {**describe(program), "onnxruntime_kernels": dict(kernels(path))}


def _check_options(
    program: Program, batch: object, precision: object, opset: object, optimize: object
) -> None:
    for option, value, choices in (
        ("--precision", precision, get_args(OnnxPrecision)),
        ("--opset", opset, get_args(Opset)),
        ("--optimize", optimize, (None, *get_args(Optimize))),
    ):
        if value not in choices:
            known = ", ".join(str(choice) for choice in choices if choice is not None)
            raise EdgevitError(f"{option}: {value!r} is not possible for ONNX; known: {known}")
    if optimize is not None and opset != OPSET:
        raise EdgevitError(
            f"--optimize {optimize} with --opset {opset}: ONNX Runtime's optimizer does not know opset "
            f"{ATTENTION_OPSET}'s Attention and fuses nothing around it; leave out --opset"
        )
    if precision == "fp16" and is_quantized(program):
        raise EdgevitError(
            f"--precision fp16: {program.card.name} is quantized, and float16 does not hold the scales "
            "of its biases; leave out --precision"
        )
    check_static(program, "ONNX Runtime")
    if opset == OPSET and has_int16(program):
        raise EdgevitError(
            f"--opset {OPSET}: {program.card.name} has 16-bit activations, which ONNX knows from opset 21; "
            f"pass --opset {ATTENTION_OPSET}"
        )
    if batch == "dynamic" and program.batch is not None:
        raise EdgevitError(
            f"--batch dynamic: {program.card.name} was captured for a batch of {program.batch}; "
            f"pass --batch {program.batch}"
        )


def _candidate(program: Program, opset: int, precision: str, optimize: str | None) -> _Candidate:
    from edgevit.export.onnx.translate import translate

    model = translate(program, opset)
    if is_quantized(program):
        from edgevit.export.onnx.quantized import lay_out

        lay_out(model)
    options: dict[str, JsonValue] = {"opset": opset}
    if optimize is not None:
        from edgevit.export.onnx.optimise import fuse

        model, counts = fuse(model)
        options |= {"optimize": optimize, "fused": dict(counts)}
        if counts:
            options["runs_in"] = "ONNX Runtime only"
    if precision == "fp16":
        from edgevit.export.onnx.half import halve

        halve(model)
    return _Candidate(_serialised(model, program.card.name), model, options)


def _fastest(program: Program, precision: str) -> _Candidate:
    """Both opsets, the one kept that is faster in ONNX Runtime; the portable one unless it clearly loses."""
    from edgevit.export.onnx.contest import RUNS, is_clearly_faster, time_files

    portable, fused = (_candidate(program, opset, precision, None) for opset in (OPSET, ATTENTION_OPSET))
    timings = time_files([portable.content, fused.content])
    winner = fused if is_clearly_faster(timings[1], timings[0]) else portable
    measured: dict[str, JsonValue] = {
        f"opset_{opset}_median_ms": round(timing.median, 3)
        for opset, timing in zip((OPSET, ATTENTION_OPSET), timings, strict=True)
    }
    runtime = f"onnxruntime {version_of('onnxruntime')}"
    timed = f"{RUNS} runs of each in turns, {runtime}, CPU, default threads"
    return _Candidate(winner.content, winner.model, {**winner.options, **measured, "timed": timed})


def _serialised(model: ir.Model, name: str) -> bytes:
    """The bytes of the file.

    Raises:
        EdgevitError: when they are too many.
    """
    import onnx
    import onnx_ir as ir

    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    if size > _LARGEST_FILE:
        raise EdgevitError(f"{name} has {size / 1e9:.1f} GB of weights; one ONNX file holds at most 2")
    model.doc_string = SEALED
    content: bytes = ir.to_proto(model).SerializeToString()
    onnx.checker.check_model(content, full_check=True)
    return sealed(content)


def _info(path: Path, model: ir.Model, precision: Precision, options: Any) -> ArtefactInfo:
    return ArtefactInfo(
        format="onnx",
        precision=precision,
        sha256=sha256_of(path),
        bytes=path.stat().st_size,
        inputs=tuple(_tensor(value) for value in model.graph.inputs),
        outputs=tuple(_tensor(value) for value in model.graph.outputs),
        options=options,
        tools={
            name: version_of(name) or "" for name in ("edgevit", "torch", "onnx", "onnxscript", "onnxruntime")
        },
    )


def _tensor(value: ir.Value) -> TensorInfo:
    shape = [size if isinstance(size, int) else str(size.value) for size in value.shape or ()]
    dtype = "" if value.dtype is None else value.dtype.name.lower()
    return TensorInfo(name=value.name or "", shape=tuple(shape), dtype=dtype)
