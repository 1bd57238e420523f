"""How far a quantized Program's outputs move when its quantizers round otherwise.

Runtimes agree on every integer and scale that is stored, and not on how a sum of integers is brought to the
next grid: some multiply by a float, some by a fixed-point number, some round halves up; one step of the grid,
here and there, lies between them. What such steps do to the outputs depends on the model, its bits and its
images. So it is measured: every quantizer rounds up or down at random, the nearer the likelier, and nothing
else changes. A runtime that is further from the Program than that computes something else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgevit.export.quantized import QUANTIZE
from edgevit.graph.program import Program, run_in_batches
from edgevit.graph.rewriting import calls
from edgevit.quant.running import Runner

Array = npt.NDArray[np.float32]


def rounded_at_random(program: Program, images: Array, seed: int = 0) -> list[Array]:
    """The outputs of a quantized Program whose quantizers round stochastically.

    Args:
        program: a quantized Program.
        images: prepared images, any number.
        seed: of the roundings.
    """
    generator = torch.Generator().manual_seed(seed)
    runner = Runner(program)

    def quantize(values: torch.Tensor, scale: float, zero_point: int, *limits: Any) -> torch.Tensor:
        low, high, dtype = limits
        chance = torch.rand(values.shape, generator=generator)
        # In double precision what lies on the grid already is exact, and stays.
        stored = torch.floor(values.double() / scale + chance) + zero_point
        result: torch.Tensor = stored.clamp(low, high).to(dtype)
        return result

    overrides = {node.name: quantize for node in calls(runner.graph, [QUANTIZE])}

    def run_batch(batch: Array) -> list[Array]:
        found = runner.run({runner.image: torch.from_numpy(batch)}, runner.results, overrides=overrides)
        return [found[name].numpy() for name in runner.results]

    with torch.no_grad():
        return run_in_batches(run_batch, images, program.batch or 32, fixed=program.batch is not None)
