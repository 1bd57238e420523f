"""Open an artefact by its kind, after checking that it is the file its metadata describes."""

from __future__ import annotations

from pathlib import Path

from edgevit.errors import EdgevitError
from edgevit.evaluation import Runnable
from edgevit.export.formats import FORMATS, Artefact
from edgevit.export.metadata import METADATA_FILE, ArtefactInfo, Metadata
from edgevit.files import sha256_of
from edgevit.graph.program import Program

_BY_SUFFIX = {Path(format_.file).suffix: format_ for format_ in FORMATS.values()}


def open_artefact(path: str | Path) -> Artefact:
    """Open an exported file in its own runtime.

    Raises:
        EdgevitError: when it is missing, of an unknown kind, damaged, or not the file that the
            ``metadata.json`` beside it describes.
        MissingDependencyError: when its runtime is not installed.
    """
    path = check_artefact(path)
    return _BY_SUFFIX[path.suffix].open(path)


def check_artefact(path: str | Path) -> Path:
    """The path, if an artefact of a known kind is there and unaltered.

    Raises:
        EdgevitError: as `open_artefact`.
    """
    path = Path(path)
    kinds = ", ".join(f"*{suffix}" for suffix in sorted(_BY_SUFFIX))
    if not path.exists():
        raise EdgevitError(f"artefact: {path} does not exist")
    if path.suffix not in _BY_SUFFIX:
        found = (
            sorted(entry.name for entry in path.iterdir() if entry.suffix in _BY_SUFFIX)
            if path.is_dir()
            else []
        )
        hint = f"; did you mean {path / found[0]}?" if found else ""
        raise EdgevitError(f"artefact: {path} is none of {kinds}{hint}")
    _check_unaltered(path)
    return path


def _check_unaltered(path: Path) -> None:
    info = metadata_of(path)
    if info is not None and info.sha256 != sha256_of(path):
        raise EdgevitError(
            f"{path} is not the file that {path.with_name(METADATA_FILE)} describes: its sha256 differs "
            "(altered or truncated)"
        )


def metadata_of(path: Path) -> ArtefactInfo | None:
    """What the ``metadata.json`` beside an artefact says of it; None where nothing does.

    Raises:
        EdgevitError: when that file is not valid.
    """
    metadata_path = path.with_name(METADATA_FILE)
    return Metadata.read(metadata_path).artefacts.get(path.name) if metadata_path.is_file() else None


def open_runnable(path: str | Path) -> Runnable:
    """Open a Program (``.pt2``) or an artefact, to be run.

    Raises:
        EdgevitError: as `Program.load` and `open_artefact`.
    """
    if Path(path).suffix == ".pt2":
        return Program.load(path)
    return open_artefact(path)
