"""Whether a TFLite file is sound, found out before the interpreter, which trusts it, sees it.

The interpreter is C++ and follows a file's offsets without asking: a damaged one can take the process
down. So every table, vector and index is looked at first. A file that edgevit wrote also carries the
SHA-256 of its flatbuffer, so an altered weight is found as well.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Iterable

from edgevit.errors import EdgevitError
from edgevit.export.tflite.flat import FlatError, Table

IDENTIFIER = b"TFL3"
METADATA_NAME = "TFLITE_METADATA"
_SEAL = b"edgevit sha256 "

# Bits of one element by the schema's TensorType; strings (5), resources (13) and variants (14) have none.
_BITS = {
    0: 32, 1: 16, 2: 32, 3: 8, 4: 64, 6: 8, 7: 16, 8: 64, 9: 8, 10: 64, 11: 128, 12: 64, 15: 32, 16: 16,
    17: 4,
}  # fmt: skip


def seal(flatbuffer: bytes) -> bytes:
    """The archive comment that tells an unaltered file."""
    return _SEAL + hashlib.sha256(flatbuffer).hexdigest().encode()


def checked_model(content: bytes, origin: str) -> bytes:
    """The flatbuffer of a TFLite file, if it and the archive behind it are sound.

    Args:
        content: the file.
        origin: its name, for errors.

    Raises:
        EdgevitError: saying what is wrong with it.
    """
    try:
        return _checked(content)
    except (FlatError, zipfile.BadZipFile) as error:
        raise EdgevitError(f"{origin} is not a sound TFLite file (damaged or truncated): {error}") from error


def _checked(content: bytes) -> bytes:
    archive = open_archive(content)
    flatbuffer = content
    if archive is not None:
        with archive:
            flatbuffer = content[: _archive_start(archive)]
            if archive.comment.startswith(_SEAL) and archive.comment != seal(flatbuffer):
                raise FlatError("its model is not the one that was exported: its sha256 differs")
            damaged = archive.testzip()
            if damaged is not None:
                raise FlatError(f"{damaged} in it has changed since it was written")
    model = Table.root(flatbuffer, IDENTIFIER)
    if archive is None and METADATA_NAME in (entry.text(0) for entry in model.tables(6)):
        raise FlatError("the files that its metadata speaks of are not behind it")
    _check_model(model)
    return flatbuffer


def open_archive(content: bytes) -> zipfile.ZipFile | None:
    """The archive behind a flatbuffer, or None where there is none."""
    stream = io.BytesIO(content)
    return zipfile.ZipFile(stream) if zipfile.is_zipfile(stream) else None


def _archive_start(archive: zipfile.ZipFile) -> int:
    members = archive.infolist()
    if not members or min(member.header_offset for member in members) <= 0:
        raise FlatError("it is an archive without a model before it")
    return min(member.header_offset for member in members)


def _check_model(model: Table) -> None:
    buffers = [buffer.vector(0, "B") for buffer in model.tables(4)]
    codes = model.tables(1)
    graphs = model.tables(2)
    if not graphs or not buffers:
        raise FlatError("it holds no graph")
    for entry in model.tables(6):
        _check_indices([entry.scalar(1, "I")], len(buffers), "a metadata entry")
    for graph in graphs:
        _check_graph(graph, buffers, len(codes))
    for signature in model.tables(7):
        index = signature.scalar(4, "I")
        _check_indices([index], len(graphs), "a signature")
        mapped = [entry.scalar(1, "I") for number in (0, 1) for entry in signature.tables(number)]
        _check_indices(mapped, len(graphs[index].tables(0)), "a signature")


def _check_graph(graph: Table, buffers: list[memoryview | None], codes: int) -> None:
    tensors = graph.tables(0)
    for tensor in tensors:
        _check_tensor(tensor, buffers)
    for number, what in ((1, "the inputs"), (2, "the outputs")):
        _check_indices(graph.numbers(number, "i"), len(tensors), what)
    for operator in graph.tables(3):
        _check_indices([operator.scalar(0, "I")], codes, "an operator's code")
        # -1 is an input that is left out.
        inputs = (index for index in operator.numbers(1, "i") if index != -1)
        _check_indices(inputs, len(tensors), "an operator's inputs")
        _check_indices(operator.numbers(2, "i"), len(tensors), "an operator's outputs")
        operator.vector(5, "B")
        for number in (4, 12):
            operator.table(number)


def _check_tensor(tensor: Table, buffers: list[memoryview | None]) -> None:
    tensor.text(3)
    shape = tensor.numbers(0, "i")
    if any(size < 0 for size in shape):
        raise FlatError("a tensor has a negative size")
    index = tensor.scalar(2, "I")
    _check_indices([index], len(buffers), "a tensor's buffer")
    quantization = tensor.table(4)
    if quantization is not None:
        for number, kind in ((0, "f"), (1, "f"), (2, "f"), (3, "q")):
            quantization.vector(number, kind)
    data, bits = buffers[index], _BITS.get(tensor.scalar(1, "b"))
    sparse = tensor.table(6) is not None
    if data is None or len(data) == 0 or bits is None or sparse:
        return
    if len(data) != math.ceil(math.prod(int(size) for size in shape) * bits / 8):
        raise FlatError("a constant's values are not as many as its shape says")


def _check_indices(indices: Iterable[float], count: int, what: str) -> None:
    if not all(0 <= index < count for index in indices):
        raise FlatError(f"{what} name something that is not in it")
