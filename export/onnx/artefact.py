"""An ONNX file, opened and run by ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit import extras
from edgevit.errors import EdgevitError
from edgevit.export.metadata import CARD_KEY, TensorInfo, check_inputs, required_card
from edgevit.export.onnx.check import check_file
from edgevit.graph.card import Card
from edgevit.graph.program import run_in_batches

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class OnnxArtefact:
    """An ONNX file open in ONNX Runtime on the CPU."""

    path: Path
    session: Any
    inputs: tuple[TensorInfo, ...]
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
            EdgevitError: when it is damaged, altered since edgevit sealed it, or refers outside its
                folder; when ONNX Runtime cannot load it, or it does not take exactly what its card
                says, or one tensor where it has none.
            MissingDependencyError: without the ``onnx`` extra.
        """
        onnxruntime = extras.load("onnxruntime", "onnx", f"running {path}")
        check_file(path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        # ONNX Runtime's exceptions share no base class below Exception.
        except Exception as error:
            raise EdgevitError(
                f"{path} is not an ONNX model that ONNX Runtime can load: {reason(error)}"
            ) from error
        text = session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
        card = None if text is None else Card.from_json(text, str(path))
        inputs = tuple(_tensor(argument) for argument in session.get_inputs())
        check_inputs(card, len(inputs), path)
        return cls(
            path=path,
            session=session,
            inputs=inputs,
            outputs=tuple(_tensor(output) for output in session.get_outputs()),
            embedded_card=card,
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
        """Classes of the first output.

        Raises:
            EdgevitError: when the file is a stage of a model.
        """
        if self.embedded_card is not None:
            self.embedded_card.check_whole()
        return int(self.outputs[0].shape[-1])

    @property
    def batch(self) -> int | None:
        """The fixed batch size, or None where it is dynamic."""
        size = self.inputs[0].shape[0]
        return size if isinstance(size, int) else None

    def run(self, *inputs: Array) -> list[Array]:
        """Outputs for prepared images (n, channels, height, width) float32, any n, or what a stage takes."""
        names = [tensor.name for tensor in self.inputs]

        def run_batch(*batch: Array) -> list[Array]:
            results: list[Array] = self.session.run(None, dict(zip(names, batch, strict=True)))
            return results

        return run_in_batches(run_batch, *inputs, batch=self.batch or 32, fixed=self.batch is not None)


def _tensor(argument: Any) -> TensorInfo:
    return TensorInfo(
        name=argument.name,
        shape=tuple(argument.shape),
        dtype=argument.type.removeprefix("tensor(").removesuffix(")"),
    )


def reason(error: BaseException) -> str:
    """The exporter wraps the cause in pages of advice: the innermost cause's first line says it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
