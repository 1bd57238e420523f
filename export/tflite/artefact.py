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
from edgevit.export.metadata import TensorInfo, required_card
from edgevit.export.tflite.check import checked_model
from edgevit.export.tflite.metadata import Layout, TfliteMetadata, card_in, metadata_in, order_from
from edgevit.export.tflite.views import inverse
from edgevit.extras import version_of
from edgevit.graph.card import Card
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
        layout: how the file's input lies; `run` takes channels first either way.
        input: the images that `run` takes, (batch, channels, height, width), frames second for clips.
        stored_input: the file's own input.
        outputs: the file's outputs.
        embedded_card: the card inside it, or None.
        metadata: what its TFLite metadata says, or None.
        runtime: which interpreter, and its version.
    """

    path: Path
    interpreter: Any
    layout: Layout
    input: TensorInfo
    stored_input: TensorInfo
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
                exactly one float32 image.
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
        stored = _stored_input(path, interpreter.get_input_details())
        metadata = metadata_in(content, flatbuffer)
        layout = _layout(stored, metadata)
        order = order_from(layout, len(stored.shape))
        return cls(
            path=path,
            interpreter=interpreter,
            layout=layout,
            input=TensorInfo(
                name=stored.name, shape=tuple(stored.shape[axis] for axis in order), dtype="float32"
            ),
            stored_input=stored,
            outputs=tuple(_tensor(details) for details in interpreter.get_output_details()),
            embedded_card=card_in(content, str(path)),
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
        """Classes of the first output."""
        return int(self.outputs[0].shape[-1])

    @property
    def batch(self) -> int:
        """The batch size, fixed in every TFLite file."""
        return int(self.input.shape[0])

    def run(self, images: Array) -> list[Array]:
        """Outputs for prepared images (n, channels, height, width) or clips float32, any n.

        A file that takes and gives integers is given the images' and their outputs are brought back, by the
        scales and zero points in it.
        """

        def run_batch(batch: Array) -> list[Array]:
            stored = batch.transpose(inverse(order_from(self.layout, batch.ndim)))
            with self._lock:
                details = self.interpreter.get_input_details()[0]
                self.interpreter.set_tensor(
                    details["index"], np.ascontiguousarray(_quantized(stored, details))
                )
                self.interpreter.invoke()
                return [
                    _dequantized(self.interpreter.get_tensor(output["index"]), output)
                    for output in self.interpreter.get_output_details()
                ]

        return run_in_batches(run_batch, images, self.batch, fixed=True)


def _interpreter(path: Path) -> tuple[ModuleType, str]:
    """The interpreter's module, and its name and version."""
    for package, name in _RUNTIMES.items():
        if importlib.util.find_spec(package) is not None:
            return importlib.import_module(f"{package}.interpreter"), f"{name} {version_of(package)}"
    raise MissingDependencyError(
        f'running {path} needs {" or ".join(_RUNTIMES.values())}: run `pip install "edgevit[tflite]"`'
    )


def _stored_input(path: Path, details: list[dict[str, Any]]) -> TensorInfo:
    if len(details) != 1:
        raise EdgevitError(f"{path} has {len(details)} inputs; one image tensor is expected")
    stored = _tensor(details[0])
    # Integers without a scale are not an image: what they stand for is not said.
    known = stored.dtype == "float32" or (stored.dtype in _INTEGERS and details[0]["quantization"][0] > 0)
    if len(stored.shape) not in (4, 5) or not known:
        raise EdgevitError(
            f"{path} takes a {stored.dtype} tensor of {len(stored.shape)} dimensions; "
            "a float32 or quantized image of 4, or a clip of 5, is expected"
        )
    return stored


def _quantized(images: Array, details: dict[str, Any]) -> npt.NDArray[Any]:
    """Images as a tensor's integers, rounded as the quantizers of PyTorch round; floats as they are."""
    if details["dtype"] == np.float32:
        return images
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
