"""A TFLite file, open in the LiteRT interpreter."""

from __future__ import annotations

import importlib
import importlib.util
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.errors import EdgevitError, MissingDependencyError
from edgevit.export.metadata import TensorInfo, check_inputs, required_card
from edgevit.export.tflite.check import checked_model
from edgevit.export.tflite.metadata import Layout, TfliteMetadata, card_in, metadata_in, order_from
from edgevit.export.tflite.views import inverse
from edgevit.extras import version_of
from edgevit.graph.card import IMAGE, Card
from edgevit.graph.program import run_in_batches

Array = npt.NDArray[np.float32]

# LiteRT, and the name it had before: a device may have only the older one.
_RUNTIMES = {"ai_edge_litert": "ai-edge-litert", "tflite_runtime": "tflite-runtime"}

# What a quantized input or output is stored as.
_INTEGERS = ("int8", "uint8", "int16")


@dataclass(frozen=True)
class TfliteArtefact:
    """A TFLite file open in its interpreter on the CPU.

    Attributes:
        path: the file.
        interpreter: the interpreter, its tensors allocated.
        layout: how the file's image lies; `run` takes channels first either way.
        inputs: what `run` takes: images (batch, channels, height, width), frames second for clips, or the
            tensors of a stage.
        stored_inputs: the file's own inputs.
        outputs: the file's outputs.
        embedded_card: the card inside it, or None.
        metadata: what its TFLite metadata says, or None.
        runtime: which interpreter, and its version.
    """

    path: Path
    interpreter: Any
    layout: Layout
    inputs: tuple[TensorInfo, ...]
    stored_inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    embedded_card: Card | None
    metadata: TfliteMetadata | None
    runtime: str
    # An interpreter has one set of tensors: two images at once would mix.
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @classmethod
    def open(cls, path: Path, *, threads: int | None = None) -> TfliteArtefact:
        """Load the file.

        Args:
            path: the ``.tflite`` file.
            threads: of the CPU kernels; None leaves it to the interpreter.

        Raises:
            EdgevitError: when the file is damaged, the interpreter cannot load it, or it does not take
                exactly what its card says, or one float32 image where it has none.
            MissingDependencyError: without an interpreter.
        """
        module, runtime = _interpreter(path)
        content = path.read_bytes()
        flatbuffer = checked_model(content, str(path))
        try:
            interpreter = module.Interpreter(model_content=content, num_threads=threads)
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise EdgevitError(
                f"{path} is not a model that {runtime} can run: {str(error).strip().splitlines()[0]}"
            ) from error
        card = card_in(content, str(path))
        details = interpreter.get_input_details()
        check_inputs(card, len(details), path)
        stored = tuple(_tensor(given) for given in details)
        metadata = metadata_in(content, flatbuffer)
        layout: Layout = "nchw"
        inputs = stored
        if _takes_image(card):
            _check_image(path, details[0])
            layout = _layout(stored[0], metadata)
            order = order_from(layout, len(stored[0].shape))
            shape = tuple(stored[0].shape[axis] for axis in order)
            inputs = (TensorInfo(name=stored[0].name, shape=shape, dtype="float32"), *stored[1:])
        return cls(
            path=path,
            interpreter=interpreter,
            layout=layout,
            inputs=inputs,
            stored_inputs=stored,
            outputs=tuple(_tensor(given) for given in interpreter.get_output_details()),
            embedded_card=card,
            metadata=metadata,
            runtime=runtime,
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
    def batch(self) -> int:
        """The batch size, fixed in every TFLite file."""
        return int(self.inputs[0].shape[0])

    def run(self, *inputs: Array) -> list[Array]:
        """Outputs for prepared images (n, channels, height, width) or clips, any n, or what a stage takes.

        A file that takes and gives integers is given the images' and their outputs are brought back, by the
        scales and zero points in it; a stage takes and gives the tensors as they are stored.
        """
        is_stage = self.embedded_card is not None and self.embedded_card.stage is not None

        def run_batch(*batch: Array) -> list[Array]:
            first, *others = batch
            if _takes_image(self.embedded_card):
                first = first.transpose(inverse(order_from(self.layout, first.ndim)))
            with self._lock:
                for part, details in zip((first, *others), self.interpreter.get_input_details(), strict=True):
                    stored = part if part.dtype == details["dtype"] else _quantized(part, details)
                    self.interpreter.set_tensor(details["index"], np.ascontiguousarray(stored))
                self.interpreter.invoke()
                results = [
                    (self.interpreter.get_tensor(details["index"]), details)
                    for details in self.interpreter.get_output_details()
                ]
            return [stored if is_stage else _dequantized(stored, details) for stored, details in results]

        return run_in_batches(run_batch, *inputs, batch=self.batch, fixed=True)


def _interpreter(path: Path) -> tuple[ModuleType, str]:
    """The interpreter's module, and its name and version."""
    for package, name in _RUNTIMES.items():
        if importlib.util.find_spec(package) is not None:
            return importlib.import_module(f"{package}.interpreter"), f"{name} {version_of(package)}"
    raise MissingDependencyError(
        f'running {path} needs {" or ".join(_RUNTIMES.values())}: run `pip install "edgevit[tflite]"`'
    )


def _takes_image(card: Card | None) -> bool:
    """Whether the first input is an image: nothing else is, where no card says so."""
    return card is None or card.inputs[0] == IMAGE


def _check_image(path: Path, details: dict[str, Any]) -> None:
    stored = _tensor(details)
    # Integers without a scale are not an image: what they stand for is not said.
    known = stored.dtype == "float32" or (stored.dtype in _INTEGERS and details["quantization"][0] > 0)
    if len(stored.shape) not in (4, 5) or not known:
        raise EdgevitError(
            f"{path} takes a {stored.dtype} tensor of {len(stored.shape)} dimensions; "
            "a float32 or quantized image of 4, or a clip of 5, is expected"
        )


def _quantized(images: Array, details: dict[str, Any]) -> npt.NDArray[Any]:
    """Images as a tensor's integers, rounded as the quantizers of PyTorch round."""
    scale, zero_point = details["quantization"]
    limits = np.iinfo(details["dtype"])
    stored = np.rint(images * np.float32(1 / scale)) + zero_point
    clipped: npt.NDArray[Any] = np.clip(stored, limits.min, limits.max).astype(details["dtype"])
    return clipped


def _dequantized(stored: npt.NDArray[Any], details: dict[str, Any]) -> Array:
    """What a tensor's integers stand for; values of another kind as they are."""
    scale, zero_point = details["quantization"]
    if details["dtype"].__name__ not in _INTEGERS or scale == 0:
        return stored
    real: Array = (stored.astype(np.float32) - zero_point) * np.float32(scale)
    return real


def _layout(stored: TensorInfo, metadata: TfliteMetadata | None) -> Layout:
    """Where the channels are: as the metadata says, or else where the size of a channel dimension is."""
    if metadata is not None and len(metadata.dimensions) == len(stored.shape):
        return "nhwc" if metadata.dimensions[-1] == "channels" else "nchw"
    return "nhwc" if stored.shape[-1] in (1, 3) and stored.shape[-3] not in (1, 3) else "nchw"


def _tensor(details: dict[str, Any]) -> TensorInfo:
    return TensorInfo(
        name=details["name"],
        shape=tuple(int(size) for size in details["shape"]),
        dtype=np.dtype(details["dtype"]).name,
    )
