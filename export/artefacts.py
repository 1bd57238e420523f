"""Open an artefact by its kind, after checking that it is the file its metadata describes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgevit.errors import EdgevitError
from edgevit.evaluation import Runnable
from edgevit.export.metadata import METADATA_FILE, Metadata
from edgevit.export.onnx import OnnxArtefact
from edgevit.files import sha256_of
from edgevit.graph.program import Program

_OPENERS: dict[str, Callable[[Path], OnnxArtefact]] = {".onnx": OnnxArtefact.open}


def open_artefact(path: str | Path) -> OnnxArtefact:
    """Open an exported file in its own runtime.

    Raises:
        EdgevitError: when it is missing, of an unknown kind, damaged, or not the file that the
            ``metadata.json`` beside it describes.
        MissingDependencyError: when its runtime is not installed.
    """
    path = check_artefact(path)
    return _OPENERS[path.suffix](path)


def check_artefact(path: str | Path) -> Path:
    """The path, if an artefact of a known kind is there and unaltered.

    Raises:
        EdgevitError: as `open_artefact`.
    """
    path = Path(path)
    kinds = ", ".join(f"*{suffix}" for suffix in sorted(_OPENERS))
    if not path.exists():
        raise EdgevitError(f"artefact: {path} does not exist")
    if path.suffix not in _OPENERS:
        found = (
            sorted(entry.name for entry in path.iterdir() if entry.suffix in _OPENERS)
            if path.is_dir()
            else []
        )
        hint = f"; did you mean {path / found[0]}?" if found else ""
        raise EdgevitError(f"artefact: {path} is none of {kinds}{hint}")
    _check_unaltered(path)
    return path


def _check_unaltered(path: Path) -> None:
    metadata_path = path.with_name(METADATA_FILE)
    if not metadata_path.is_file():
        return
    info = Metadata.read(metadata_path).artefacts.get(path.name)
    if info is not None and info.sha256 != sha256_of(path):
        raise EdgevitError(
            f"{path} is not the file that {metadata_path} describes: its sha256 differs "
            "(altered or truncated)"
        )


def open_runnable(path: str | Path) -> Runnable:
    """Open a Program (``.pt2``) or an artefact, to be run.

    Raises:
        EdgevitError: as `Program.load` and `open_artefact`.
    """
    if Path(path).suffix == ".pt2":
        return Program.load(path)
    return open_artefact(path)
