"""How far a training is, in a checkpoint: parameters, the optimiser's state, and the finished epochs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from edgevit.graph.checkpoint import Checkpoint

# By their paths.
Parameters = dict[str, torch.nn.Parameter]


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes:
        losses: the mean loss of each finished epoch.
        seconds: that the finished epochs took.
    """

    losses: tuple[float, ...] = ()
    seconds: float = 0.0


def checkpoint_at(path: Path, run: str) -> Checkpoint:
    """The checkpoint of a training."""
    return Checkpoint(path, run, noun="training", version=2)


def keep(
    checkpoint: Checkpoint, parameters: Parameters, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write what is learned and done."""
    tensors = {}
    for path, parameter in parameters.items():
        tensors[f"value/{path}"] = parameter.detach()
        state = optimizer.state.get(parameter, {})
        tensors |= {f"{name}/{path}": value for name, value in state.items()}
    checkpoint.write(tensors, asdict(progress))


def go_on(checkpoint: Checkpoint, parameters: Parameters, optimizer: torch.optim.Optimizer) -> Progress:
    """Put what was learned into the parameters and the optimiser.

    Returns:
        How far the run is; where there is no file, not at all.

    Raises:
        EdgevitError: as `Checkpoint.read`.
    """

    def restore(tensors: Mapping[str, torch.Tensor], values: Any) -> Progress:
        progress = Progress(tuple(float(loss) for loss in values["losses"]), float(values["seconds"]))
        _restore(parameters, optimizer, tensors)
        return progress

    return checkpoint.read(restore) or Progress()


def _restore(
    parameters: Parameters, optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]
) -> None:
    for path, parameter in parameters.items():
        with torch.no_grad():
            parameter.copy_(tensors[f"value/{path}"])
        # A parameter that has no part in the logits has no state.
        if f"step/{path}" in tensors:
            moments = {name: tensors[f"{name}/{path}"] for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {
                "step": tensors[f"step/{path}"],
                **{name: value.to(parameter.device) for name, value in moments.items()},
            }
