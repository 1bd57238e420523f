"""What an interrupted run left, so that the next one goes on from there: tensors, and how far it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import JsonValue
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from edgevit.errors import EdgevitError
from edgevit.files import staged_file

T = TypeVar("T")


@dataclass(frozen=True)
class Checkpoint:
    """A file that holds everything learned so far.

    Attributes:
        path: of the file.
        run: what identifies the run: model, images and options; another run's file is refused.
        noun: what kind of run it is, in a word, such as "training".
        version: of what is stored for that kind.
    """

    path: Path
    run: str
    noun: str
    version: int

    def write(self, tensors: Mapping[str, torch.Tensor], progress: JsonValue) -> None:
        """Replace the file, whole or not at all."""
        header = {"version": str(self.version), "run": self.run, "progress": json.dumps(progress)}
        with staged_file(self.path) as staged:
            save_file(dict(tensors), staged, metadata=header)

    def read(self, restore: Callable[[Mapping[str, torch.Tensor], JsonValue], T]) -> T | None:
        """Go on from the file.

        Args:
            restore: puts what is stored where it belongs, and gives what it likes.

        Returns:
            What `restore` gives; None where there is no file.

        Raises:
            EdgevitError: when the file is damaged, or of another run.
        """
        if not self.path.exists():
            return None
        damaged = EdgevitError(f"{self.path} is no {self.noun} in progress; delete it")
        try:
            with safe_open(self.path, framework="pt") as stored:
                header = stored.metadata() or {}
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            progress = json.loads(header["progress"])
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise damaged from error
        if header.get("version") != str(self.version) or header.get("run") != self.run:
            raise EdgevitError(
                f"{self.path} was left by a {self.noun} of another model, on other images or with other "
                "options; repeat that one to finish it, or delete the file"
            )
        try:
            return restore(tensors, progress)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise damaged from error

    def remove(self) -> None:
        """Delete the file: the run is over."""
        self.path.unlink(missing_ok=True)
