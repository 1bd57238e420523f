"""How far a reconstruction is, in a checkpoint: everything learned, and the results of finished blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from edgevit.graph.checkpoint import Checkpoint
from edgevit.quant.reconstruct import BlockResult
from edgevit.quant.simulation import Simulation


def checkpoint_at(path: Path, run: str) -> Checkpoint:
    """The checkpoint of a reconstruction."""
    return Checkpoint(path, run, noun="reconstruction", version=3)


def keep(checkpoint: Checkpoint, simulation: Simulation, results: Sequence[BlockResult]) -> None:
    """Write what is learned and done."""
    checkpoint.write(simulation.state(), [asdict(result) for result in results])


def go_on(checkpoint: Checkpoint, simulation: Simulation) -> tuple[BlockResult, ...]:
    """Put what was learned into the simulation.

    Returns:
        The results of the blocks that are done; none where there is no file.

    Raises:
        EdgevitError: as `Checkpoint.read`.
    """

    def restore(tensors: Mapping[str, torch.Tensor], progress: Any) -> tuple[BlockResult, ...]:
        results = tuple(BlockResult(**item) for item in progress)
        simulation.load_state(tensors)
        return results

    return checkpoint.read(restore) or ()
