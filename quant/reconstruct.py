"""Reconstruction: block by block, learn what makes a block give its float outputs.

Beyond Q-HyViT's search (arXiv 2303.12557): rounding is learned as in AdaRound (Nagel et al. 2020), scales
as in LSQ (Esser et al. 2020), each block sees its quantized input mixed with the float one as in QDrop
(Wei et al. 2022), and the loss is the block's own error, weighted by how much each output matters to the
prediction, plus what is left of the error behind the float remainder of the network (GLF-Q, 2026).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from edgevit.graph.predictions import divergence
from edgevit.graph.program import Program
from edgevit.graph.running import BATCH, Runner, Values, batches, spread
from edgevit.quant.blocks import Block
from edgevit.quant.learning import Learnable, LearningOptions, learn
from edgevit.quant.simulation import Simulation

# Images on which the importance of outputs is measured.
_IMPORTANCE_IMAGES = 64
# So many of them run at once: every value of the network is kept for its gradient.
_IMPORTANCE_BATCH = 8
# Images on which a block's damage is.
_DAMAGE_IMAGES = 64


Outcome = Literal["learned", "taken back", "harmless", "nothing to learn"]


@dataclass(frozen=True)
class BlockResult:
    """What reconstruction did for one block.

    Attributes:
        block: its name.
        damage: KL in nats from the float predictions when the block alone is quantized, before it learns.
        before: squared error of its outputs, weighted by importance, relative to their size, at the start.
        after: the same with what was learned; what made it no better was taken back.
        outcome: what became of it; a block that does too little damage learns nothing.
    """

    block: str
    damage: float
    before: float
    after: float
    outcome: Outcome


class Reconstruction:
    """One run over the blocks of a program.

    Made at the start, before anything that an interrupted run has learned is put into the simulation: what
    outputs matter is measured here, and both have to weigh errors alike.

    A grid is learned with the first block that reads anything on it, and never changes after that, so that
    no block undoes what one before it learned.

    Args:
        program: the float program.
        simulation: of the quantized one; it is changed in place.
        blocks: a partition of the graph, in order.
        images: (n, channels, height, width) float32.
        options: for every block.
    """

    def __init__(
        self,
        program: Program,
        simulation: Simulation,
        blocks: Sequence[Block],
        images: torch.Tensor,
        options: LearningOptions,
    ) -> None:
        self.plain, self.simulation = Runner(program), simulation
        self.blocks, self.images, self.options = tuple(blocks), images, options
        self._learnable = learnables(simulation, blocks)
        self._logits = self._all({self.plain.image: images}, self.plain.results[:1], quantized=False)
        outputs = [name for block in blocks for name in block.outputs]
        self._importance = importance(simulation, self.plain, spread(images, _IMPORTANCE_IMAGES), outputs)
        # What crosses from one block to the next, of all images, in the float and in the quantized network.
        self._float: Values = {self.plain.image: images}
        self._quantized: Values = {self.plain.image: images}

    def run(self, done: int = 0) -> Iterator[BlockResult]:
        """Learn block after block, behind the first `done`, which the simulation has learned already."""
        for index, block in enumerate(self.blocks):
            targets = self._all(self._float, block.outputs, quantized=False, inputs=block.inputs)
            result = self._learn(index, targets) if index >= done else None
            outputs = self._all(self._quantized, block.outputs, quantized=True, inputs=block.inputs)
            self._pass_on(index, targets, outputs)
            if result is not None:
                yield result

    def _learn(self, index: int, targets: Values) -> BlockResult:
        block, options = self.blocks[index], self.options
        learnable = self._learnable[index]
        before, start = self._block_error(block, targets), learnable.copied()
        damage = self._damage(index)
        if not start:
            return BlockResult(block.name, damage, before, before, "nothing to learn")
        if damage < options.worth:
            return BlockResult(block.name, damage, before, before, "harmless")
        generator = torch.Generator(self.images.device).manual_seed(options.seed * 1000 + index)
        count = min(options.batch, len(self.images))

        def losses(_: int) -> list[torch.Tensor]:
            rows = torch.randint(len(self.images), (count,), generator=generator)
            given = {name: self._mixed(name, rows, generator) for name in block.inputs}
            found = self._run(given, block.outputs, quantized=True)
            local = self._error(found, {name: value[rows] for name, value in targets.items()})
            behind = rows[: options.global_images]
            return [local, self._divergence_behind(index, found, behind)] if len(behind) else [local]

        learn(learnable, losses, options)
        after = self._block_error(block, targets)
        # Said this way round for NaN.
        if not after < before:
            learnable.restore(start)
            return BlockResult(block.name, damage, before, before, "taken back")
        return BlockResult(block.name, damage, before, after, "learned")

    def _damage(self, index: int) -> float:
        """KL of the predictions when the block alone is quantized."""
        block, result = self.blocks[index], 0.0
        chosen = spread(torch.arange(len(self.images)), _DAMAGE_IMAGES)
        with torch.no_grad():
            for rows in batches(chosen):
                given = {name: self._float[name][rows] for name in block.inputs}
                found = self._run(given, block.outputs, quantized=True)
                result += len(rows) * float(self._divergence_behind(index, found, rows))
        return result / len(chosen)

    def _all(
        self, values: Values, wanted: Sequence[str], *, quantized: bool, inputs: Sequence[str] | None = None
    ) -> Values:
        """Wanted values of all images."""
        given = values if inputs is None else {name: values[name] for name in inputs}
        found: Values = {}
        for rows, part in self._by_batch(given, wanted, quantized=quantized):
            for name, value in part.items():
                # Filled in place: joined at the end, all of it would lie in memory twice.
                if name not in found:
                    found[name] = value.new_empty(len(self.images), *value.shape[1:])
                found[name][rows] = value
        return found

    def _by_batch(
        self, values: Values, wanted: Sequence[str], *, quantized: bool
    ) -> Iterator[tuple[slice, Values]]:
        """Wanted values of some images after the other, and which images they are of."""
        for start in range(0, len(self.images), BATCH):
            rows = slice(start, min(start + BATCH, len(self.images)))
            with torch.no_grad():
                given = {name: value[rows] for name, value in values.items()}
                found = self._run(given, wanted, quantized=quantized)
            yield rows, found

    def _run(self, given: Mapping[str, torch.Tensor], wanted: Sequence[str], *, quantized: bool) -> Values:
        batch = len(next(iter(given.values())))
        # Shapes that depend on the batch are read off the image, of which a later block needs nothing else.
        image = torch.empty(1).expand(batch, *self.images.shape[1:])
        runner = self.simulation.runner if quantized else self.plain
        overrides = self.simulation.overrides if quantized else {}
        folded = {name: _folded(value, runner, name) for name, value in given.items()}
        found = runner.run({runner.image: image, **folded}, wanted, overrides=overrides)
        return {name: _by_image(value, batch) for name, value in found.items()}

    def _error(self, found: Values, targets: Values) -> torch.Tensor:
        """Squared error, weighted by importance, relative to the targets' own weighted square."""
        errors = []
        for name, target in targets.items():
            error, size = self._squares(name, found[name], target)
            errors.append(error / size.clamp_min(1e-12 * target.numel()))
        return torch.stack(errors).mean()

    def _block_error(self, block: Block, targets: Values) -> float:
        """The same of all images, a batch at a time."""
        sums = {name: torch.zeros(2, dtype=torch.float64, device="cpu") for name in targets}
        given = {name: self._quantized[name] for name in block.inputs}
        for rows, found in self._by_batch(given, block.outputs, quantized=True):
            for name, target in targets.items():
                sums[name] += torch.stack(self._squares(name, found[name], target[rows])).cpu()
        errors = [
            error / size.clamp_min(1e-12 * targets[name].numel()) for name, (error, size) in sums.items()
        ]
        return float(torch.stack(errors).mean())

    def _squares(
        self, name: str, found: torch.Tensor, target: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums of squares, weighted by importance: of the error, and of what would be right."""
        weight = self._importance[name]
        return ((found - target).square() * weight).sum(), (target.square() * weight).sum()

    def _mixed(self, name: str, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        quantized, plain = self._quantized[name][rows], self._float[name][rows]
        keep = torch.rand(quantized.shape, generator=generator) >= self.options.drop
        return torch.where(keep, quantized, plain)

    def _divergence_behind(self, index: int, found: Values, rows: torch.Tensor) -> torch.Tensor:
        """KL of the predictions when everything behind the block is float.

        Args:
            index: of the block.
            found: its outputs, of the images of the rows and perhaps of others behind them.
            rows: which images.
        """
        given: Values = {}
        for name in self._crossing(index):
            given[name] = found[name][: len(rows)] if name in found else self._float[name][rows]
        result = self.plain.results[0]
        logits = given[result] if result in given else self._run(given, [result], quantized=False)[result]
        return divergence(self._logits[result][rows], logits)

    def _crossing(self, index: int) -> list[str]:
        """What a block behind this one reads, or the graph returns, of all that was computed so far."""
        later = {name for block in self.blocks[index + 1 :] for name in block.inputs} | {
            self.plain.results[0]
        }
        made = {name for block in self.blocks[: index + 1] for name in block.outputs} | {self.plain.image}
        return sorted(later & made)

    def _pass_on(self, index: int, targets: Values, outputs: Values) -> None:
        keep = set(self._crossing(index))
        for values, new in ((self._float, targets), (self._quantized, outputs)):
            values.update(new)
            for name in values.keys() - keep:
                del values[name]


def learnables(simulation: Simulation, blocks: Sequence[Block]) -> tuple[Learnable, ...]:
    """What each block learns: roundings and biases of its layers, and grids that no block before it reads."""
    taken: set[str] = set()
    found: list[Learnable] = []
    for block in blocks:
        firsts = [first for first in simulation.grids_read_by(block.nodes) if first not in taken]
        taken.update(firsts)
        found.append(
            Learnable(
                tuple(simulation.grids[first] for first in firsts),
                tuple(simulation.weights[name] for name in block.nodes if name in simulation.weights),
                tuple(simulation.biases[name] for name in block.nodes if name in simulation.biases),
            )
        )
    return tuple(found)


def importance(
    simulation: Simulation, plain: Runner, images: torch.Tensor, names: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Mean squared gradient of KL(float || quantized) by each element of some values, scaled to mean 1.

    Taken at the quantized network, where the two differ: at the float one this gradient is zero
    (APHQ-ViT, 2025, perturbs for the same reason). The float target is kept for each image.

    Returns:
        For each name a tensor of the value's shape by image, 1 in place of the images.
    """
    sums: dict[str, torch.Tensor] = {}
    for part in batches(images, _IMPORTANCE_BATCH):
        with torch.no_grad():
            target = plain.run({plain.image: part}, plain.results[:1])[plain.results[0]]
        result = simulation.runner.results[0]
        # The image's gradient is of no use, but with it every value has one.
        image = {plain.image: part.clone().requires_grad_()}
        found = simulation.runner.run(image, [*names, result], overrides=simulation.overrides)
        values = [found[name] for name in names]
        # Every image's own gradient counts alike, however many run with it.
        whole = divergence(target, found[result]) * len(part)
        grads = torch.autograd.grad(whole, values, allow_unused=True)
        for name, value, grad in zip(names, values, grads, strict=True):
            squared = _by_image(torch.zeros_like(value) if grad is None else grad.square(), len(part))
            squared = squared.sum(0, keepdim=True)
            sums[name] = sums[name] + squared if name in sums else squared
    return {name: _mean_one(value) for name, value in sums.items()}


def _by_image(value: torch.Tensor, images: int) -> torch.Tensor:
    """A value with one row an image: windows and patches are folded into the batch, within each image."""
    return value if len(value) == images else value.reshape(images, -1, *value.shape[1:])


def _folded(value: torch.Tensor, runner: Runner, name: str) -> torch.Tensor:
    """A value as the graph has it."""
    return value if value.dim() == runner.nodes[name].meta["val"].dim() else value.flatten(0, 1)


def _mean_one(weights: torch.Tensor) -> torch.Tensor:
    mean = weights.mean()
    return weights / mean if mean > 0 else torch.ones_like(weights)
