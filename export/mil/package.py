"""Read a ``.mlpackage`` from disk, trusting nothing in it.

A package is a folder: ``Manifest.json`` names the items under ``Data/``, one of them the model's
specification (a protocol buffer) that refers to offsets in weight files beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edgevit import extras
from edgevit.errors import EdgevitError
from edgevit.export.metadata import CARD_KEY
from edgevit.export.mil.quiet import quiet_coremltools
from edgevit.export.seal import KEY, sealed, unsealed
from edgevit.files import sha256_of

MANIFEST = "Manifest.json"
_WEIGHTS_PREFIX = "@model_path/weights/"
# MIL's blob storage: 64 bytes of header per file (count, version) and per blob (mark, type, bytes, offset).
_HEADER = 64
_STORAGE_VERSION = 2
_BLOB_MARK = 0xDEADBEEF
# Model.proto: description, its metadata, their userDefined.
_METADATA = (2, 100, 100)


@dataclass(frozen=True)
class Package:
    """A package whose files were found to be where it says, and inside it.

    Attributes:
        path: the ``.mlpackage`` folder.
        spec: its specification, a ``coremltools.proto.Model_pb2.Model``.
        weights: the folder that its weight files are in.
    """

    path: Path
    spec: Any
    weights: Path

    @property
    def metadata(self) -> dict[str, str]:
        """User-defined metadata, key to text."""
        return dict(self.spec.description.metadata.userDefined)


def read_package(path: Path) -> Package:
    """Read the specification and check everything it refers to.

    Raises:
        EdgevitError: when the package is damaged, holds no ML Program, or refers outside itself.
        MissingDependencyError: without the ``coreml`` extra.
    """
    with quiet_coremltools():
        proto = extras.load("coremltools", "coreml", f"reading {path}").proto
    _refuse_links(path)
    model = _model_file(path)
    content = model.read_bytes()
    specification, digest = unsealed(content, _METADATA)
    if digest not in (None, _digest(specification, model)):
        raise EdgevitError(f"{path} is not the package that was exported: its sha256 differs (altered)")
    spec = proto.Model_pb2.Model()
    try:
        spec.ParseFromString(content)
    # protobuf's DecodeError is a ValueError in some of its implementations, its own class in others.
    except Exception as error:
        raise EdgevitError(f"{model} is not a Core ML specification (damaged or truncated)") from error
    if spec.WhichOneof("Type") != "mlProgram":
        raise EdgevitError(f"{path} holds a {spec.WhichOneof('Type') or 'nothing'}; an ML Program is needed")
    package = Package(path, spec, model.parent / "weights")
    if CARD_KEY in package.metadata and KEY not in package.metadata:
        raise EdgevitError(f"{path} has lost its sha256: its specification {model} is truncated")
    _check_weights(package)
    return package


def seal_package(path: Path) -> None:
    """Write into a package the digest by which `read_package` tells that nothing in it was altered."""
    model = _model_file(path)
    content = model.read_bytes()
    model.write_bytes(sealed(content, _digest(content, model), _METADATA))


def _digest(specification: bytes, model: Path) -> str:
    """SHA-256 over the specification and the weights files beside it."""
    digest = hashlib.sha256(specification)
    if (weights := model.parent / "weights").is_dir():
        digest.update(sha256_of(weights).encode())
    return digest.hexdigest()


def _refuse_links(path: Path) -> None:
    if not path.is_dir():
        raise EdgevitError(f"{path} is not a Core ML package; a package is a folder with a {MANIFEST}")
    for folder, folders, files in os.walk(path):
        link = next((name for name in [*folders, *files] if Path(folder, name).is_symlink()), None)
        if link is not None:
            raise EdgevitError(f"{path}: {Path(folder, link)} is a symbolic link; a package may hold none")


def _model_file(path: Path) -> Path:
    """The specification that the manifest names."""
    manifest = path / MANIFEST
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        entries = content["itemInfoEntries"]
        items = {key: _inside(path, entry["path"]) for key, entry in entries.items()}
        model = items[content["rootModelIdentifier"]]
    except (OSError, UnicodeDecodeError) as error:
        raise EdgevitError(f"{path}: its {MANIFEST} cannot be read") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EdgevitError(f"{manifest} is not the manifest of a Core ML package") from error
    absent = next((item for item in items.values() if not item.exists()), None)
    if absent is not None:
        raise EdgevitError(f"{path}: {absent}, which its {MANIFEST} names, is missing")
    if not model.is_file():
        raise EdgevitError(f"{path}: {model} is no file; a specification is needed")
    return model


def _inside(path: Path, item: str) -> Path:
    place = PurePosixPath(item)
    if place.is_absolute() or ".." in place.parts or "\\" in item or not place.parts or "\0" in item:
        raise EdgevitError(f"{path}: its {MANIFEST} names {item!r}, which lies outside the package")
    return path / "Data" / place


def _check_weights(package: Package) -> None:
    """Every weight that the program refers to lies in a file of the package, whole."""
    sizes: dict[str, int] = {}
    for function in package.spec.mlProgram.functions.values():
        for block in function.block_specializations.values():
            for blob in _blobs(block):
                name = _weights_name(package, blob.fileName)
                if name not in sizes:
                    sizes[name] = _weights_size(package, name)
                _check_blob(package, name, blob.offset, sizes[name])


def _blobs(block: Any) -> Iterator[Any]:
    for operation in block.operations:
        bindings = [binding for argument in operation.inputs.values() for binding in argument.arguments]
        values = [binding.value for binding in bindings if binding.WhichOneof("binding") == "value"]
        for value in [*operation.attributes.values(), *values]:
            if value.WhichOneof("value") == "blobFileValue":
                yield value.blobFileValue
        for inner in operation.blocks:
            yield from _blobs(inner)


def _weights_name(package: Package, reference: str) -> str:
    name = reference.removeprefix(_WEIGHTS_PREFIX)
    if not reference.startswith(_WEIGHTS_PREFIX) or "/" in name or "\\" in name or name in ("", ".", ".."):
        raise EdgevitError(
            f"{package.path}: it refers to weights at {reference!r}, outside its weights folder"
        )
    return name


def _weights_size(package: Package, name: str) -> int:
    file = package.weights / name
    if not file.is_file():
        raise EdgevitError(f"{package.path}: its weights file {file} is missing")
    size = file.stat().st_size
    with file.open("rb") as stream:
        header = stream.read(_HEADER)
    if len(header) < _HEADER or struct.unpack_from("<II", header)[1] != _STORAGE_VERSION:
        raise EdgevitError(f"{file} is not a Core ML weights file (damaged or truncated)")
    return size


def _check_blob(package: Package, name: str, offset: int, size: int) -> None:
    file = package.weights / name
    if offset + _HEADER > size:
        raise EdgevitError(
            f"{package.path}: a weight is said to be at byte {offset} of {file}, which has {size} bytes"
        )
    with file.open("rb") as stream:
        stream.seek(offset)
        mark, _, length, start = struct.unpack_from("<IIQQ", stream.read(_HEADER))
    if mark != _BLOB_MARK or start + length > size:
        raise EdgevitError(f"{file} holds no whole weight at byte {offset} (altered or truncated)")
