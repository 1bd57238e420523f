"""What an interrupted reconstruction left, so that the next run goes on behind the last finished block."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from edgevit.errors import EdgevitError
from edgevit.files import staged_file
from edgevit.quant.reconstruct import BlockResult
from edgevit.quant.simulation import Simulation

_VERSION = "2"


@dataclass(frozen=True)
class Checkpoint:
    """A file that holds everything learned so far.

    Attributes:
        path: of the file.
        run: what identifies the run: model, images and options; another run's file is refused.
    """

    path: Path
    run: str

    def write(self, simulation: Simulation, results: Sequence[BlockResult]) -> None:
        """Replace the file, whole or not at all."""
        header = {
            "version": _VERSION,
            "run": self.run,
            "blocks": json.dumps([asdict(result) for result in results]),
        }
        with staged_file(self.path) as staged:
            save_file(simulation.state(), staged, metadata=header)

    def read(self, simulation: Simulation) -> tuple[BlockResult, ...]:
        """Put what was learned into the simulation.

        Returns:
            The results of the blocks that are done; none where there is no file.

        Raises:
            EdgevitError: when the file is damaged, or of another run.
        """
        if not self.path.exists():
            return ()
        try:
            with safe_open(self.path, framework="pt") as stored:
                header = stored.metadata() or {}
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            results = tuple(BlockResult(**item) for item in json.loads(header["blocks"]))
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise self._damaged() from error
        if header.get("version") != _VERSION or header.get("run") != self.run:
            raise EdgevitError(
                f"{self.path} was left by a run with another model, other images or other options; "
                "repeat that command to finish it, or delete the file"
            )
        try:
            simulation.load_state(tensors)
        except (KeyError, RuntimeError) as error:
            raise self._damaged() from error
        return results

    def _damaged(self) -> EdgevitError:
        return EdgevitError(f"{self.path} is no reconstruction in progress; delete it")

    def remove(self) -> None:
        """Delete the file: the run is over."""
        self.path.unlink(missing_ok=True)
