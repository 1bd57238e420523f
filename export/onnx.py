"""ONNX: written by torch's exporter from the Program's graph, self-described, run by ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgevit import extras
from edgevit.errors import EdgevitError
from edgevit.export.metadata import CARD_KEY, ArtefactInfo, TensorInfo, required_card
from edgevit.extras import version_of
from edgevit.files import sha256_of, size_of
from edgevit.graph.card import Card
from edgevit.graph.program import Program, run_in_batches

Array = npt.NDArray[np.float32]

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
    exported = program.exported if batch == "dynamic" else program.with_batch(batch).exported
    try:
        with _quiet_exporter():
            converted = torch.onnx.export(exported, dynamo=True, opset_version=OPSET, verbose=False)
    except torch.onnx.errors.OnnxExporterError as error:
        raise EdgevitError(f"{program.card.name} cannot be written as ONNX: {_reason(error)}") from error
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


def _reason(error: BaseException) -> str:
    """The exporter wraps the cause in pages of advice: the innermost cause's first line says it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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


@dataclass(frozen=True)
class OnnxArtefact:
    """An ONNX file open in ONNX Runtime on the CPU."""

    path: Path
    session: Any
    input: TensorInfo
    outputs: tuple[TensorInfo, ...]
    embedded_card: Card | None
    runtime: str

    @classmethod
    def open(cls, path: Path, *, threads: int | None = None) -> OnnxArtefact:
        """Load the file.

        Args:
            path: the ``.onnx`` file.
            threads: intra-op threads; None leaves it to ONNX Runtime.

        Raises:
            EdgevitError: when ONNX Runtime cannot load it, or it does not take exactly one tensor.
            MissingDependencyError: without the ``onnx`` extra.
        """
        onnxruntime = extras.load("onnxruntime", "onnx", f"running {path}")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        # ONNX Runtime's exceptions share no base class below Exception.
        except Exception as error:
            raise EdgevitError(
                f"{path} is not an ONNX model that ONNX Runtime can load: {_reason(error)}"
            ) from error
        inputs = session.get_inputs()
        if len(inputs) != 1:
            raise EdgevitError(f"{path} has {len(inputs)} inputs; one image tensor is expected")
        card = session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
        return cls(
            path=path,
            session=session,
            input=_tensor(inputs[0]),
            outputs=tuple(_tensor(output) for output in session.get_outputs()),
            embedded_card=None if card is None else Card.from_json(card, str(path)),
            runtime=f"onnxruntime {onnxruntime.__version__}",
        )

    @property
    def card(self) -> Card:
        """The card inside the file.

        Raises:
            EdgevitError: when it has none, being of another tool's making.
        """
        return required_card(self.embedded_card, self.path)

    @property
    def num_classes(self) -> int:
        """Classes of the first output."""
        return int(self.outputs[0].shape[-1])

    @property
    def batch(self) -> int | None:
        """The fixed batch size, or None where it is dynamic."""
        size = self.input.shape[0]
        return size if isinstance(size, int) else None

    def run(self, images: Array) -> list[Array]:
        """Outputs for prepared images (n, channels, height, width) float32, any n."""

        def run_batch(batch: Array) -> list[Array]:
            results: list[Array] = self.session.run(None, {self.input.name: batch})
            return results

        return run_in_batches(run_batch, images, self.batch or 32, fixed=self.batch is not None)


def _tensor(argument: Any) -> TensorInfo:
    return TensorInfo(
        name=argument.name,
        shape=tuple(argument.shape),
        dtype=argument.type.removeprefix("tensor(").removesuffix(")"),
    )
