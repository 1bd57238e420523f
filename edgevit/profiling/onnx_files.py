"""What a device without the ``onnx`` package has to be told, or given, with an ONNX file."""

from __future__ import annotations

from pathlib import Path


def input_shape(path: Path) -> list[int]:
    """Sizes of a file's input, one image where the batch is dynamic."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    given = next(value for value in graph.input if value.name not in weights)
    return [size.dim_value or 1 for size in given.type.tensor_type.shape.dim]


def data_files(path: Path) -> list[str]:
    """Names, relative to the file's folder, of files that hold weights of it."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    return sorted(
        {
            entry.value
            for tensor in graph.initializer
            for entry in tensor.external_data
            if entry.key == "location"
        }
    )
