"""ONNX: written by torch's exporter from the Program's graph, self-described, run by ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from edgevit import extras
from edgevit.errors import EdgevitError
from edgevit.export.metadata import CARD_KEY, ArtefactInfo
from edgevit.export.onnx.artefact import OnnxArtefact, reason
from edgevit.extras import version_of
from edgevit.files import sha256_of, size_of
from edgevit.graph.program import Program
from edgevit.graph.rewrites import prepare_for_export

OPSET = 20
INPUT_NAME = "image"
BATCH_NAME = "batch"


def to_onnx(program: Program, path: Path, *, batch: int | Literal["dynamic"] = 1) -> ArtefactInfo:
    """Write a float32 ONNX file with the card in its metadata.

    Args:
        program: what to export.
        path: the ``.onnx`` file to write; weights are inside it.
        batch: a fixed batch size, or "dynamic".

    Returns:
        What the file holds.

    Raises:
        EdgevitError: when the graph cannot be written as ONNX, or not with that batch.
        MissingDependencyError: without the ``onnx`` extra.
    """
    import torch

    extras.require("onnx", "ONNX export")
    if batch == "dynamic" and program.batch is not None:
        raise EdgevitError(
            f"--batch dynamic: {program.card.name} was captured for a batch of {program.batch}; "
            f"pass --batch {program.batch}"
        )
    program = prepare_for_export(program if batch == "dynamic" else program.with_batch(batch))
    try:
        with _quiet_exporter():
            converted = torch.onnx.export(program.exported, dynamo=True, opset_version=OPSET, verbose=False)
    except torch.onnx.errors.OnnxExporterError as error:
        raise EdgevitError(f"{program.card.name} cannot be written as ONNX: {reason(error)}") from error
    if converted is None:  # only with torch.onnx.export's fallback option, which is not used
        raise AssertionError("torch.onnx.export returned nothing")
    _describe(converted.model, program)
    converted.save(str(path), external_data=False)
    _check(path)
    return _info(path, batch)


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Torch's exporter prints and warns about what it then handles."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("onnxscript").setLevel(logging.ERROR)
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        yield


def _describe(model: Any, program: Program) -> None:
    """Give inputs, outputs and the batch their names, and embed the card."""
    graph = model.graph
    symbol = None if program.batch is not None else str(program.input_shape[0])
    for value, name in zip([*graph.inputs, *graph.outputs], [INPUT_NAME, *program.card.outputs], strict=True):
        value.name = name
    for value in _values(graph):
        _rename_dimension(value, symbol)
    for node in graph:
        # The exporter's notes on every node name files of the machine it ran on.
        node.metadata_props.clear()
    model.producer_name = "edgevit"
    model.producer_version = version_of("edgevit") or ""
    model.metadata_props[CARD_KEY] = program.card.model_dump_json()


def _values(graph: Any) -> Iterator[Any]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs


def _rename_dimension(value: Any, symbol: str | None) -> None:
    value.metadata_props.clear()
    if value.shape is None or symbol is None:
        return
    for axis, size in enumerate(value.shape):
        if not isinstance(size, int) and size.value is not None:
            value.shape[axis] = re.sub(rf"\b{symbol}\b", BATCH_NAME, size.value)


def _check(path: Path) -> None:
    import onnx

    onnx.checker.check_model(str(path), full_check=True)


def _info(path: Path, batch: int | str) -> ArtefactInfo:
    artefact = OnnxArtefact.open(path)
    return ArtefactInfo(
        format="onnx",
        precision="fp32",
        sha256=sha256_of(path),
        bytes=size_of(path),
        inputs=(artefact.input,),
        outputs=artefact.outputs,
        options={"opset": OPSET, "batch": batch},
        tools={
            name: version_of(name) or "" for name in ("edgevit", "torch", "onnx", "onnxscript", "onnxruntime")
        },
    )
