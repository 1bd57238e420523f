"""From a Program's graph to an ONNX model in memory, by torch's exporter."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.export import ExportedProgram

from edgevit.errors import EdgevitError
from edgevit.export.metadata import CARD_KEY
from edgevit.export.onnx.artefact import reason
from edgevit.extras import version_of
from edgevit.graph.fixed_batch import copied
from edgevit.graph.program import Program

BATCH_NAME = "batch"


def translate(program: Program, opset: int) -> Any:
    """The program as an ``onnx_ir.Model``: inputs and outputs named, the card inside, no machine's paths.

    Args:
        program: prepared for export; it is left as it is.
        opset: version of the ONNX operators.

    Raises:
        EdgevitError: when an operator of the graph cannot be written as ONNX.
    """
    try:
        with _quiet_exporter():
            converted = _converted(program.exported, opset)
    except torch.onnx.errors.OnnxExporterError as error:
        raise EdgevitError(f"{program.card.name} cannot be written as ONNX: {reason(error)}") from error
    if converted is None:  # only with torch.onnx.export's fallback option, which is not used
        raise AssertionError("torch.onnx.export returned nothing")
    _describe(converted.model, program)
    return converted.model


def _converted(exported: ExportedProgram, opset: int) -> Any:
    try:
        return torch.onnx.export(_Decomposed.of(exported), dynamo=True, opset_version=opset, verbose=False)
    except torch.onnx.errors.OnnxExporterError:
        # Some composite operators have neither a translation nor an entry in the exporter's table:
        # tracing takes them apart by itself. Where that is not it, the error comes again.
        return torch.onnx.export(exported, dynamo=True, opset_version=opset, verbose=False)


class _Decomposed(ExportedProgram):
    """A graph that is not traced again where there is nothing to decompose.

    torch's exporter first decomposes every operator that it has no translation for, and traces the
    whole graph anew to do so: a third of its time. A prepared graph holds no such operator, so what
    comes out is what went in.
    """

    @classmethod
    def of(cls, exported: ExportedProgram) -> _Decomposed:
        """A copy of the graph, which the exporter writes to; weights are shared."""
        graph = copied(exported.graph)
        graph.owning_module = exported.graph_module
        return cls(
            root=exported.graph_module,
            graph=graph,
            graph_signature=copy.deepcopy(exported.graph_signature),
            state_dict=dict(exported.state_dict),
            range_constraints=dict(exported.range_constraints),
            module_call_graph=list(exported.module_call_graph),
            example_inputs=exported.example_inputs,
            constants=dict(exported.constants),
            verifiers=exported.verifiers,
        )

    def run_decompositions(
        self, decomp_table: Mapping[Any, Any] | None = None, decompose_custom_triton_ops: bool = False
    ) -> ExportedProgram:
        """As `ExportedProgram.run_decompositions`."""
        found = {node.target for node in self.graph.nodes if node.op == "call_function"}
        if decomp_table is not None and found.isdisjoint(decomp_table) and not _writes_in_place(found):
            return self
        decomposed: ExportedProgram = super().run_decompositions(decomp_table, decompose_custom_triton_ops)
        return decomposed


def _writes_in_place(operators: set[Any]) -> bool:
    schemas = (getattr(operator, "_schema", None) for operator in operators)
    return any(schema is not None and schema.is_mutable for schema in schemas)


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
    symbol = None if program.batch is not None else str(program.input_shapes[0][0])
    names = [*program.card.inputs, *program.card.outputs]
    ends = dict(zip([*graph.inputs, *graph.outputs], names, strict=True))
    for value in _values(graph):
        # What a stage gives may have the name of what is reshaped for it.
        if value not in ends and value.name in names:
            value.name = f"{value.name}_inside"
    for value, name in ends.items():
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
