"""TFLite: converted by litert-torch from the Program's graph, its layout cleaned up, self-described."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from pydantic import JsonValue

from edgevit import extras
from edgevit.errors import EdgevitError, closest
from edgevit.export.integer_ends import integer_inputs, integer_outputs, with_float_ends
from edgevit.export.metadata import ArtefactInfo, Precision
from edgevit.export.quantized import describe
from edgevit.export.tflite.artefact import TfliteArtefact
from edgevit.export.tflite.check import METADATA_NAME
from edgevit.export.tflite.counts import count_transposes
from edgevit.export.tflite.metadata import Layout, append_files, metadata_flatbuffer, order_from
from edgevit.export.tflite.views import inverse
from edgevit.extras import version_of
from edgevit.files import sha256_of, size_of
from edgevit.graph.card import IMAGE, Card
from edgevit.graph.hub import first_line
from edgevit.graph.program import Program
from edgevit.graph.rewrites import prepare_for_export
from edgevit.graph.rewrites.group_norm import spell_out_group_norm
from edgevit.graph.torchvision_shim import make_torchvision_importable
from edgevit.quant.insertion import is_quantized

if TYPE_CHECKING:
    from types import ModuleType

TflitePrecision = Literal["fp32", "fp16"]


def to_tflite(
    program: Program,
    path: Path,
    *,
    precision: TflitePrecision = "fp32",
    layout: Layout = "nchw",
    integer_io: bool = False,
) -> ArtefactInfo:
    """Write a TFLite file for one image at a time, with labels, preprocessing and the card inside it.

    A quantized Program becomes integer kernels with its very integers, scales and zero points; where the
    runtime has no such kernel, as between integers and floats, a float one reads its integers.

    Args:
        program: what to export.
        path: the ``.tflite`` file to write.
        precision: "fp32", or "fp16" for float16 weights computed in float32; of what is not quantized.
        layout: of the input: "nchw" as the Program has it, or "nhwc", channels last, which spares the
            runtime a transpose and is what Android's image libraries expect.
        integer_io: let a quantized file take and give integers, for devices that know nothing else; their
            scales and zero points stand in the file.

    Returns:
        What the file holds.

    Raises:
        EdgevitError: when the graph cannot be converted, an option is unknown or not for this program, or
            the converter changed anything that was quantized.
        MissingDependencyError: without the ``tflite`` extra.
    """
    _check_choice("--precision", precision, get_args(TflitePrecision))
    _check_choice("--layout", layout, get_args(Layout))
    if layout == "nhwc" and IMAGE not in program.card.inputs:
        raise EdgevitError(f"--layout nhwc: {program.card.name} takes no image; leave the option out")
    _check_integers(program, precision, integer_io=integer_io)
    extras.require("tflite", "TFLite export")
    integers = {*integer_inputs(program), *integer_outputs(program)}
    program = with_float_ends(spell_out_group_norm(prepare_for_export(program.with_batch(1))))
    with _quiet_converter():
        model = _converted(program, layout)
    options = _finish(model, program, precision, integers, integer_io=integer_io)
    path.write_bytes(_described(model, program, layout))
    return _info(path, "int8" if is_quantized(program) else precision, options)


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise EdgevitError(f"{option}: {value!r} is unknown; {closest(value, choices)}")


def _check_integers(program: Program, precision: str, *, integer_io: bool) -> None:
    name = program.card.name
    if is_quantized(program) and precision == "fp16":
        raise EdgevitError(
            f"--precision fp16: {name} is quantized, its weights smaller than float16 already; "
            "leave out --precision"
        )
    if integer_io and not is_quantized(program):
        raise EdgevitError(f"--integer-io: {name} is not quantized; quantize it, or leave the option out")
    if integer_io and program.card.stage is not None:
        raise EdgevitError(
            f"--integer-io: {name}: this is stage {program.card.stage} of it, which takes and gives integers "
            "where it is cut between them; leave the option out"
        )


class _Entry(torch.nn.Module):
    """The graph with the image in the file's layout.

    It also stands for the module that an exported graph is not: one that knows it is not training.
    """

    def __init__(self, program: Program, layout: Layout) -> None:
        super().__init__()
        self.network = program.module
        image = 1 + len(program.card.preprocessing.input_shape)
        self.orders = [order_from(layout, image) if name == IMAGE else None for name in program.card.inputs]
        self.training = False

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.network(
            *(
                given if order is None else given.permute(order)
                for given, order in zip(inputs, self.orders, strict=True)
            )
        )

    def example(self, program: Program) -> tuple[torch.Tensor, ...]:
        """Inputs of zeros in the file's layout."""
        return tuple(
            given if order is None else given.permute(inverse(order)).contiguous()
            for given, order in zip(program.example(1), self.orders, strict=True)
        )


def _converted(program: Program, layout: Layout) -> Any:
    """The converter's ``ModelT``, of integer kernels where quantizers stand around an operator."""
    litert_torch = _import_converter()
    from edgevit.export.tflite.barriers import remove_barriers
    from edgevit.export.tflite.model import parse
    from edgevit.export.tflite.quantized import spell_out_quantizers
    from edgevit.export.tflite.requantize import join_conversions

    integer = is_quantized(program)
    program = spell_out_quantizers(program) if integer else program
    entry = _Entry(program, layout)
    try:
        with torch.no_grad():
            converted = litert_torch.convert(
                entry,
                entry.example(program),
                quant_config=_integer_kernels() if integer else None,
            )
            model = parse(bytes(converted.model_content()))
            remove_barriers(model, program)
            join_conversions(model)
            return model
    # The converter raises whatever its MLIR passes and torch's decompositions raise.
    except Exception as error:
        raise EdgevitError(f"{program.card.name} cannot be written as TFLite: {_reason(error)}") from error


def _integer_kernels() -> Any:
    """What makes the converter fold quantizers into kernels. The scales are the graph's, not this one's."""
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig

    static = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False)
    return QuantConfig(pt2e_quantizer=PT2EQuantizer().set_global(static))


def _reason(error: Exception) -> str:
    """The converter's first line, without the pages of source locations before the sentence in it."""
    return first_line(error).rpartition("error: ")[2][-300:]


def _import_converter() -> ModuleType:
    # Its C++ part writes to the terminal by itself, as these say when it is loaded: the second keeps it
    # from announcing a library for arithmetic that a conversion does not do.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    # It imports transformers, which imports torchvision.
    make_torchvision_importable()
    litert_torch = extras.load("litert_torch", "tflite", "TFLite export")
    litert_torch.config.show_progress = False
    return litert_torch


@contextlib.contextmanager
def _quiet_converter() -> Iterator[None]:
    """The converter logs and warns about what is not the user's to change."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _finish(
    model: Any, program: Program, precision: TflitePrecision, integers: set[str], *, integer_io: bool
) -> dict[str, JsonValue]:
    """Bring a model to the wanted layout, precision and ends, in place; returns what to say of it.

    The `integers` are the ends that stay such: those of a stage, which the next takes.
    """
    from edgevit.export.tflite.carried import carry_integers
    from edgevit.export.tflite.ends import check_integer_ends, float_ends
    from edgevit.export.tflite.fixed import free_fixed_kernels
    from edgevit.export.tflite.half import halve_weights
    from edgevit.export.tflite.layout import remove_transposes

    if is_quantized(program):
        free_fixed_kernels(model)
    remove_transposes(model)
    if not is_quantized(program):
        if precision == "fp16":
            halve_weights(model)
        return {}
    options = carry_integers(model, program)
    if integer_io:
        check_integer_ends(model, program.card)
    else:
        float_ends(model, program.card, integers)
    return {**describe(program), **options, "integer_io": integer_io}


def _described(model: Any, program: Program, layout: Layout) -> bytes:
    """The finished file: tensors named, metadata inside."""
    from ai_edge_litert import schema_py_generated as schema

    from edgevit.export.tflite.model import add_buffer, serialise

    _name(model, program.card)
    model.description = f"edgevit {version_of('edgevit') or ''}".strip().encode()
    entry = schema.MetadataT(name=METADATA_NAME.encode())
    entry.buffer = add_buffer(model, np.frombuffer(metadata_flatbuffer(program.card, layout), dtype=np.uint8))
    model.metadata = [*(model.metadata or []), entry]
    return append_files(serialise(model), program.card)


def _name(model: Any, card: Card) -> None:
    """Give inputs and outputs their names, in the graph and in its signature."""
    graph, signature = model.subgraphs[0], model.signatureDefs[0]
    for tensors, mapped, names in (
        (graph.inputs, signature.inputs, card.inputs),
        (graph.outputs, signature.outputs, card.outputs),
    ):
        for tensor, name in zip(tensors, names, strict=True):
            graph.tensors[tensor].name = name.encode()
        by_tensor = dict(zip((int(tensor) for tensor in tensors), names, strict=True))
        for entry in mapped:
            entry.name = by_tensor[entry.tensorIndex].encode()


def _info(path: Path, precision: Precision, options: dict[str, JsonValue]) -> ArtefactInfo:
    artefact = TfliteArtefact.open(path)
    return ArtefactInfo(
        format="tflite",
        precision=precision,
        sha256=sha256_of(path),
        bytes=size_of(path),
        inputs=artefact.stored_inputs,
        outputs=artefact.outputs,
        options={
            "batch": artefact.batch,
            "layout": artefact.layout,
            "transposes": count_transposes(path),
            **options,
        },
        tools={
            name: version_of(name) or "" for name in ("edgevit", "torch", "litert_torch", "ai_edge_litert")
        },
    )
