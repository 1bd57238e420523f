"""What an interrupted training left, so that the next run goes on behind the last finished epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from edgevit.errors import EdgevitError
from edgevit.files import staged_file

_VERSION = "1"

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


@dataclass(frozen=True)
class Checkpoint:
    """A file that holds parameters, the optimiser's state and the progress.

    Attributes:
        path: of the file.
        run: what identifies the run: model, images and options; another run's file is refused.
    """

    path: Path
    run: str

    def write(self, parameters: Parameters, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Replace the file, whole or not at all."""
        header = {"version": _VERSION, "run": self.run, "progress": json.dumps(asdict(progress))}
        tensors = {}
        for path, parameter in parameters.items():
            tensors[f"value/{path}"] = parameter.detach()
            state = optimizer.state.get(parameter, {})
            tensors |= {f"{name}/{path}": value for name, value in state.items()}
        with staged_file(self.path) as staged:
            save_file(tensors, staged, metadata=header)

    def read(self, parameters: Parameters, optimizer: torch.optim.Optimizer) -> Progress:
        """Put what was learned into the parameters and the optimiser.

        Returns:
            How far the run is; where there is no file, not at all.

        Raises:
            EdgevitError: when the file is damaged, or of another run.
        """
        if not self.path.exists():
            return Progress()
        try:
            with safe_open(self.path, framework="pt") as stored:
                header = stored.metadata() or {}
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            progress = _progress(header["progress"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise self._damaged() from error
        if header.get("version") != _VERSION or header.get("run") != self.run:
            raise EdgevitError(
                f"{self.path} was left by a training of another model, on other images or with other "
                "options; repeat that one to finish it, or delete the file"
            )
        try:
            _restore(parameters, optimizer, tensors)
        except (KeyError, RuntimeError) as error:
            raise self._damaged() from error
        return progress

    def remove(self) -> None:
        """Delete the file: the run is over."""
        self.path.unlink(missing_ok=True)

    def _damaged(self) -> EdgevitError:
        return EdgevitError(f"{self.path} is no training in progress; delete it")


def _progress(text: str) -> Progress:
    values = json.loads(text)
    return Progress(tuple(float(loss) for loss in values["losses"]), float(values["seconds"]))


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
