"""How far a quantized Program's outputs move when its quantizers round otherwise.

Runtimes agree on every integer and scale that is stored, and not on how a sum of integers is brought to the
next grid: some multiply by a float, some by a fixed-point number, some round halves up; one step of the grid,
here and there, lies between them. What such steps do to the outputs depends on the model, its bits and its
images. So it is measured, nothing else being changed: every quantizer rounds up or down at random, the nearer
the likelier; and what lies halfway, as far as float16 can tell, is rounded all up, or all down. (Pixels often
lie halfway, all of them: those of an image that is normalised to -1 .. 1 are odd multiples of half a step of
the grid that has -1, 0 and 1 on it.) A runtime that is further from the Program computes something else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgevit.export.quantized import DEQUANTIZE, QUANTIZE
from edgevit.graph.program import Program, run_in_batches
from edgevit.graph.rewriting import calls
from edgevit.graph.running import Runner

Array = npt.NDArray[np.float32]

# Steps of a grid of 256 that float16 leaves open: 128 x 2**-11.
_OPEN = 1 / 16


def rounded_otherwise(program: Program, *inputs: Array) -> list[list[Array]]:
    """The outputs of a quantized Program under three other ways to round.

    Args:
        program: a quantized Program.
        inputs: prepared images, any number; of a stage, what it takes.

    Returns:
        One array for every way, for every output.
    """
    generator = torch.Generator().manual_seed(0)
    ways: tuple[Callable[[torch.Size], torch.Tensor], ...] = (
        lambda shape: torch.rand(shape, generator=generator),
        lambda _: torch.tensor(0.5 + _OPEN),
        lambda _: torch.tensor(0.5 - _OPEN),
    )
    runs = [_run(program, inputs, way) for way in ways]
    return [list(outputs) for outputs in zip(*runs, strict=True)]


def output_steps(program: Program) -> list[float]:
    """The step of the grid that each output lies on, 1 for integers themselves; 0 for one that is float.

    Two outputs that differ by less than a step before they are quantized may lie two apart on their grid, or
    none: what is seen of a difference there is right to a step.
    """
    runner = Runner(program)
    nodes = [runner.nodes[name] for name in runner.results]
    return [
        float(node.args[1]) if node.target is DEQUANTIZE else float(node.target is QUANTIZE) for node in nodes
    ]


def _run(
    program: Program, inputs: tuple[Array, ...], offset: Callable[[torch.Size], torch.Tensor]
) -> list[Array]:
    """The outputs, every quantizer adding an offset before it rounds down; 0.5 rounds to the nearest."""
    runner = Runner(program)

    def quantize(values: torch.Tensor, scale: float, zero_point: int, *limits: Any) -> torch.Tensor:
        low, high, dtype = limits
        # In double precision what lies on the grid already is exact, and stays.
        stored = torch.floor(values.double() / scale + offset(values.shape)) + zero_point
        result: torch.Tensor = stored.clamp(low, high).to(dtype)
        return result

    overrides = {node.name: quantize for node in calls(runner.graph, [QUANTIZE])}

    def run_batch(*batch: Array) -> list[Array]:
        given = dict(zip(runner.inputs, map(torch.from_numpy, batch), strict=True))
        found = runner.run(given, runner.results, overrides=overrides)
        return [found[name].numpy() for name in runner.results]

    with torch.no_grad():
        return run_in_batches(run_batch, *inputs, batch=program.batch or 32, fixed=program.batch is not None)
