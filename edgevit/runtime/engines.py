"""Artefacts opened in the runtime that a device has: tensors in, tensors out, by their order."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgevit.errors import EdgevitError
from edgevit.runtime.wire import Array

#: Outputs of an artefact for its inputs, both in the order in which the file has them.
Engine = Callable[[Sequence[Array]], list[Array]]

# LiteRT, and the name it had before: a device may have only the older one.
_LITERT = {"ai_edge_litert": "ai-edge-litert", "tflite_runtime": "tflite-runtime"}


def available() -> dict[str, str]:
    """Formats that can be run here, each with the runtime's name and version; nothing is imported."""
    found = {}
    if importlib.util.find_spec("onnxruntime") is not None:
        found["onnx"] = f"onnxruntime {importlib.metadata.version('onnxruntime')}"
    for package, distribution in _LITERT.items():
        if importlib.util.find_spec(package) is not None:
            found["tflite"] = f"{distribution} {importlib.metadata.version(distribution)}"
            break
    return found


def open_engine(path: Path, format_: str, threads: int) -> Engine:
    """Load an artefact.

    Args:
        path: the file.
        format_: "onnx" or "tflite".
        threads: that one run may take.

    Raises:
        EdgevitError: when the runtime is not there, or cannot load the file.
    """
    if format_ not in available():
        raise EdgevitError(f"no runtime for {format_} is installed here")
    try:
        return _OPENERS[format_](path, threads)
    except EdgevitError:
        raise
    # The runtimes' exceptions share no base class below Exception.
    except Exception as error:
        raise EdgevitError(f"the {format_} runtime cannot load {path.name}: {_first_line(error)}") from error


def _open_onnx(path: Path, threads: int) -> Engine:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    # A file whose weights lie elsewhere could read any file of the device: bytes have no folder.
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    names = [argument.name for argument in session.get_inputs()]

    def run(inputs: Sequence[Array]) -> list[Array]:
        return [np.asarray(value) for value in session.run(None, dict(zip(names, inputs, strict=True)))]

    return run


def _open_tflite(path: Path, threads: int) -> Engine:
    module: ModuleType = next(
        importlib.import_module(f"{package}.interpreter")
        for package in _LITERT
        if importlib.util.find_spec(package) is not None
    )
    interpreter: Any = module.Interpreter(model_content=path.read_bytes(), num_threads=threads)
    interpreter.allocate_tensors()
    taken, given = interpreter.get_input_details(), interpreter.get_output_details()

    def run(inputs: Sequence[Array]) -> list[Array]:
        for details, value in zip(taken, inputs, strict=True):
            interpreter.set_tensor(details["index"], value)
        interpreter.invoke()
        return [interpreter.get_tensor(details["index"]) for details in given]

    return run


_OPENERS: Mapping[str, Callable[[Path, int], Engine]] = {"onnx": _open_onnx, "tflite": _open_tflite}


def run_engine(engine: Engine, inputs: Sequence[Array]) -> list[Array]:
    """Run, and say in a sentence what the runtime does not accept.

    Raises:
        EdgevitError: when it refuses the tensors.
    """
    try:
        return engine(inputs)
    except Exception as error:
        raise EdgevitError(f"the runtime refuses the tensors: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
