"""Files on disk: hashed, and written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgevit.errors import EdgevitError


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file, or of a folder: its files' relative names and contents in sorted order."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_of(file)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return path.stat().st_size


def existing_file(path: str | Path, option: str) -> Path:
    """The path, if it is a readable file.

    Raises:
        EdgevitError: naming `option`, when it is missing, a folder or unreadable.
    """
    path = Path(path)
    if path.is_dir():
        raise EdgevitError(f"{option}: {path} is a folder; a file is needed")
    if not path.exists():
        raise EdgevitError(f"{option}: {path} does not exist")
    if not os.access(path, os.R_OK):
        raise EdgevitError(f"{option}: {path} cannot be read (permission denied)")
    return path


def check_output(path: Path, *, names: Iterable[str] = (), force: bool = False) -> None:
    """Refuse an output that could not be written, or would overwrite something, before any work is done.

    Args:
        path: the output file; or, with `names`, the output folder.
        names: what will be written into the folder.
        force: allow existing outputs to be replaced.

    Raises:
        EdgevitError: naming what stands in the way.
    """
    names = list(names)
    if names and path.exists() and not path.is_dir():
        raise EdgevitError(f"{path} is a file; a folder is needed for the output")
    if not names and path.is_dir():
        raise EdgevitError(f"{path} is a folder; a file name is needed for the output")
    targets = [path / name for name in names] or [path]
    existing = next((target for target in targets if target.exists()), None)
    if existing is not None and not force:
        raise EdgevitError(f"{existing} exists already; choose another output or pass --force to replace it")
    parent = path if names else path.parent
    while not parent.exists():
        parent = parent.parent
    _check_writable(parent)


def _check_writable(folder: Path) -> None:
    # os.access says yes to root on a read-only file system, so a file is really made.
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise EdgevitError(f"cannot write to the output folder {folder}: {error.strerror}") from error


@contextlib.contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends well, and vanishes otherwise."""
    with staged_folder(path.parent) as folder:
        yield folder / path.name


@contextlib.contextmanager
def staged_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder whose entries move into `folder` when the block ends well, and vanish otherwise.

    It lies beside its destination so that every move is a rename on one file system. Only entries
    that the block wrote are replaced: what else is in `folder` stays.

    Raises:
        EdgevitError: when the destination cannot be written.
    """
    staging = _Staging(folder)
    try:
        staging.open()
    except OSError as error:
        raise EdgevitError(f"cannot write to the output folder {folder}: {error.strerror}") from error
    try:
        yield staging.stage
        for entry in sorted(staging.stage.iterdir()):
            _replace(entry, folder / entry.name)
        staging.created.clear()
    finally:
        staging.close()


class _Staging:
    """A stage, and the folders that exist only for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.created = _missing_parents(folder)
        self.stage = folder

    def open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.stage = Path(tempfile.mkdtemp(prefix=".edgevit-", dir=self.folder))
        _open_stagings.append(self)

    def close(self) -> None:
        shutil.rmtree(self.stage, ignore_errors=True)
        for folder in self.created:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        _open_stagings.remove(self)


_open_stagings: list[_Staging] = []

# What an interrupted command leaves on purpose, for the next one to go on from.
resumable: list[Path] = []


def abandon_staged() -> None:
    """Remove every stage that is open: for a process that is about to end without unwinding."""
    for staging in reversed(_open_stagings.copy()):
        staging.close()


def _missing_parents(folder: Path) -> list[Path]:
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    return missing


def _replace(source: Path, destination: Path) -> None:
    if destination.is_dir():
        shutil.rmtree(destination)
    source.replace(destination)
