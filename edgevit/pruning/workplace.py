"""What an interrupted split leaves beside its output, so that the same command goes on from there."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from edgevit.errors import EdgevitError
from edgevit.files import resumable, staged_file
from edgevit.graph.program import Program
from edgevit.graph.weights import digest
from edgevit.pruning.dataset import Images, Labels
from edgevit.pruning.parts import Material, packed

_VERSION = 1
_RUN = "run.json"
_PROGRAM = "program.pt2"
_ARRAYS = ("images", "labels", "teacher", "features", "learned_from")
A = TypeVar("A", bound=npt.NDArray[np.generic])

# Images that are converted and hashed at once.
_CHUNK = 256


@dataclass(frozen=True)
class Workplace:
    """A folder with what parts are made of, and the parts that are finished.

    Attributes:
        folder: it is gone when the split is written.
    """

    folder: Path

    @classmethod
    def beside(cls, output: Path) -> Workplace:
        """The folder that belongs to an output folder."""
        return cls(output.with_name(f"{output.name}.partial"))

    @contextlib.contextmanager
    def kept_when_interrupted(self, run: str) -> Iterator[None]:
        """Nothing is left when the block ends well, or is refused before a part was finished.

        Args:
            run: what has to be equal for an interrupted run to go on: program, images and options.

        Raises:
            EdgevitError: when another run was interrupted, and has finished parts.
        """
        self._check_run(run)
        resumable.append(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with staged_file(self.folder / _RUN) as staged:
                staged.write_text(json.dumps({"version": _VERSION, "run": run}), encoding="utf-8")
            yield
        except EdgevitError:
            if not self._finished():
                shutil.rmtree(self.folder, ignore_errors=True)
            raise
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
        finally:
            resumable.remove(self.folder)

    def array(self, name: str, make: Callable[[], A]) -> A:
        """An array that is stored; made where it is not there yet."""
        path = self.folder / f"{name}.npy"
        if not path.exists():
            with staged_file(path) as staged:
                np.save(staged, make())
        found: A = np.load(path)
        return found

    def images(self, images: Images) -> Images:
        """All images as float16, in a file that is mapped into memory: processes share it."""
        path = self.folder / "images.npy"
        if not path.exists():
            with staged_file(path) as staged:
                stored = np.lib.format.open_memmap(staged, mode="w+", dtype=np.float16, shape=images.shape)
                for start in range(0, len(images), _CHUNK):
                    stored[start : start + _CHUNK] = images[start : start + _CHUNK]
                stored.flush()
        found: Images = np.load(path, mmap_mode="r")
        return found

    def store(self, program: Program) -> None:
        """Keep the whole for the processes that make parts."""
        path = self.folder / _PROGRAM
        if not path.exists():
            with staged_file(path) as staged:
                staged.write_bytes(packed(program, path.stem))

    @property
    def read(self) -> Callable[[], Material]:
        """A function, one that can be pickled, that gives what is stored."""
        return functools.partial(_read, self.folder)

    def has(self, name: str) -> bool:
        """Whether a part is finished."""
        return self._part(name).exists()

    def part(self, name: str) -> bytes:
        """A finished part."""
        return self._part(name).read_bytes()

    def keep(self, name: str, data: bytes) -> None:
        """Store a finished part, whole or not at all."""
        with staged_file(self._part(name)) as staged:
            staged.write_bytes(data)

    def checkpoint(self, name: str) -> Path:
        """Where the training of a part keeps how far it is."""
        return self.folder / f"{name}.training"

    def _part(self, name: str) -> Path:
        return self.folder / f"{name}.part.pt2"

    def _finished(self) -> bool:
        return any(self.folder.glob("*.part.pt2")) or any(self.folder.glob("*.training"))

    def _check_run(self, run: str) -> None:
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise EdgevitError(f"{self.folder} is a file; what is not finished would lie there; move it away")
        if self._run() == run:
            return
        if self._finished():
            raise EdgevitError(
                f"{self.folder} was left by a split of another model, on other images or with other options; "
                "repeat that command to finish it, or delete the folder"
            )
        shutil.rmtree(self.folder)

    def _run(self) -> str | None:
        path = self.folder / _RUN
        if not path.exists():
            if all(entry.name.startswith(".edgevit-") for entry in self.folder.iterdir()):
                return None
            # Of somebody else's making: never deleted.
            raise EdgevitError(f"{self.folder} is no split in progress; move it away")
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            return str(state["run"]) if state["version"] == _VERSION else None
        except (ValueError, KeyError, TypeError) as error:
            raise EdgevitError(f"{path} is damaged; delete {self.folder}") from error


def run_of(program: Program, images: Images, labels: Labels, options: str) -> str:
    """What identifies a split: what an interrupted one left is of use to no other.

    Args:
        program: the whole.
        images: all of them.
        labels: the class of each.
        options: everything else that decides what comes out.
    """
    sha = hashlib.sha256()
    sha.update(digest(program.exported.state_dict.items()).encode())
    sha.update(program.card.model_dump_json().encode())
    sha.update(f"{images.shape} {options}".encode())
    for start in range(0, len(images), _CHUNK):
        chunk = np.ascontiguousarray(images[start : start + _CHUNK], dtype=np.float16)
        sha.update(chunk.data)
    sha.update(np.ascontiguousarray(labels).data)
    return sha.hexdigest()


def _read(folder: Path) -> Material:
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
    return Material(program=(folder / _PROGRAM).read_bytes(), **arrays)
