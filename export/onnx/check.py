"""Whether an ONNX file is sound and unaltered, found out before ONNX Runtime, which trusts it, reads it.

A file that edgevit wrote ends in its own SHA-256 (see `edgevit.export.seal`). The model's ``doc_string``,
near the file's beginning, says that there is a seal, so that a file that lost its last bytes does not pass
for one that never had any.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from edgevit.errors import EdgevitError
from edgevit.export import seal

SEALED = f"Sealed: the last bytes are a metadata entry, {seal.KEY}, of the SHA-256 of all bytes before them."
# Bytes in which the doc_string is, behind the producer's name and version.
_BEGINNING = 1024
_ON_PURPOSE = f"a tool that changes it on purpose has to drop its doc_string and the entry {seal.KEY}"

_DIGEST = re.compile(r"[0-9a-f]{64}")
# ModelProto.metadata_props.
_METADATA = (14,)


def sealed(content: bytes) -> bytes:
    """A serialised model with the SHA-256 of its bytes behind them."""
    return seal.sealed(content, hashlib.sha256(content).hexdigest(), _METADATA)


def check_file(path: Path) -> None:
    """Refuse a file that is damaged, altered since edgevit wrote it, or would have files elsewhere read.

    Files of other tools, and files of edgevit's that another tool wrote anew, have no seal to check.

    Args:
        path: the ``.onnx`` file.

    Raises:
        EdgevitError: saying what is wrong with it.
    """
    import onnx
    from google.protobuf.message import DecodeError

    content = path.read_bytes()
    is_sealed = _check_seal(content, path)
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise EdgevitError(f"{path} is not a sound ONNX file (damaged or truncated): {error}") from error
    if not model.HasField("graph"):
        raise EdgevitError(f"{path} is not a sound ONNX file (damaged or truncated): it holds no graph")
    entries = {entry.key: entry.value for entry in model.metadata_props}
    # A tool that writes a file anew may move the entry, but not spoil it.
    says_sealed = SEALED.encode() in content[:_BEGINNING]
    if says_sealed and not is_sealed and not _DIGEST.fullmatch(entries.get(seal.KEY, "")):
        raise EdgevitError(
            f"{path} is altered or truncated: the sha256 that sealed it is gone ({_ON_PURPOSE})"
        )
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check_external(tensor, path)


def _check_seal(content: bytes, path: Path) -> bool:
    """Whether there is a seal, which is then right."""
    body, digest = seal.unsealed(content, _METADATA)
    if digest not in (None, hashlib.sha256(body).hexdigest()):
        raise EdgevitError(
            f"{path} is altered or truncated: its sha256 differs from the one that sealed it ({_ON_PURPOSE})"
        )
    return digest is not None


def _tensors(model: Any) -> Iterator[Any]:
    """Every stored tensor: of the graph, of graphs inside its nodes, and of functions."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _node_tensors(node)
    for training in model.training_info:
        yield from _graph_tensors(training.initialization)
        yield from _graph_tensors(training.algorithm)


def _graph_tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for graph in (attribute.g, *attribute.graphs):
            yield from _graph_tensors(graph)


def _check_external(tensor: Any, path: Path) -> None:
    """Whether a tensor that is stored in another file is stored in one beside the model, all of it."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    named = f"{path} keeps {tensor.name or 'a tensor'} in {location!r}"
    if not location or _is_absolute(location) or ".." in PureWindowsPath(location).parts:
        raise EdgevitError(f"{named}, which is not a file in its folder")
    file, folder = path.parent / location, path.parent.resolve()
    if not file.resolve().is_relative_to(folder):
        raise EdgevitError(f"{named}, a link that leads out of its folder")
    if not file.is_file():
        raise EdgevitError(f"{named}, which is missing")
    numbers = [entries.get(key, "0") for key in ("offset", "length")]
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise EdgevitError(f"{named}, at offset {numbers[0]!r} and of length {numbers[1]!r}: not numbers")
    if sum(map(int, numbers)) > file.stat().st_size:
        raise EdgevitError(f"{named}, which is truncated: it ends before that tensor does")


def _is_absolute(location: str) -> bool:
    # As either system reads it: a file may be made on one and opened on the other. C:x has a drive only.
    windows = PureWindowsPath(location)
    return PurePosixPath(location).is_absolute() or bool(windows.drive or windows.root)
