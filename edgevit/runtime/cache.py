"""Artefacts on a device's disk, by their SHA-256: what was fetched once is there the next time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection
from pathlib import Path

from edgevit.errors import EdgevitError
from edgevit.files import sha256_of, staged_file
from edgevit.runtime.messages import Artefact

#: Bytes of an artefact that starts at an offset.
Fetch = Callable[[int], bytes]


def default_folder() -> Path:
    """Where artefacts are kept: the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edgevit" / "artefacts"


class Cache:
    """A folder of artefacts of bounded size; what was not used for longest goes first.

    Several workers may share one: files appear whole, and their names are their contents'.

    Args:
        folder: where they are.
        limit: bytes of all of them together.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit

    def get(self, artefact: Artefact, fetch: Fetch, used: Collection[str] = ()) -> Path:
        """An artefact's file, fetched where it is not there or was altered.

        Args:
            artefact: which.
            fetch: where its bytes are got.
            used: SHA-256 of others that must stay.

        Raises:
            EdgevitError: when it is larger than the cache, or what was fetched is something else.
        """
        path = self._folder / f"{artefact.sha256}.{artefact.format}"
        if path.is_file() and sha256_of(path) == artefact.sha256:
            path.touch()
            return path
        if artefact.bytes > self._limit:
            raise EdgevitError(
                f"artefact of {artefact.bytes} bytes: the cache holds {self._limit}; raise --cache-limit"
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        self._make_room(artefact.bytes, used)
        with staged_file(path) as staged:
            _download(artefact, fetch, staged)
        return path

    def _make_room(self, size: int, used: Collection[str]) -> None:
        files = [path for path in self._folder.iterdir() if path.is_file() and path.stem not in used]
        kept = sum(path.stat().st_size for path in self._folder.iterdir() if path.is_file())
        for path in sorted(files, key=lambda path: path.stat().st_mtime_ns):
            if kept + size <= self._limit:
                return
            kept -= path.stat().st_size
            path.unlink(missing_ok=True)


def _download(artefact: Artefact, fetch: Fetch, path: Path) -> None:
    digest, done = hashlib.sha256(), 0
    with path.open("wb") as stream:
        while done < artefact.bytes:
            chunk = fetch(done)
            done += len(chunk)
            if not chunk or done > artefact.bytes:
                raise EdgevitError(
                    f"artefact {artefact.sha256[:12]}: {done} bytes arrived, {artefact.bytes} were announced"
                )
            digest.update(chunk)
            stream.write(chunk)
    if digest.hexdigest() != artefact.sha256:
        raise EdgevitError(f"artefact {artefact.sha256[:12]}: what arrived has another SHA-256")
