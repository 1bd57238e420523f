"""How much the predictions change with what passes through the graph: squared gradients, by images.

To second order, the divergence KL(float || changed) of the predictions is half the quadratic form of their
Fisher information with the change (Martens 2020, arXiv 1412.1193, section 5). Its diagonal is the mean square
of the gradients of log-likelihoods, of classes drawn from the float prediction: no labels are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from edgevit.graph.program import Program
from edgevit.graph.running import Runner, batches
from edgevit.progress import track

# Images that run at once: every value is kept for its gradient.
_BATCH = 16


def channel_information(
    program: Program, places: Mapping[str, int], images: torch.Tensor, *, seed: int
) -> dict[str, torch.Tensor]:
    """For some values, how much an error of each channel matters.

    Args:
        program: of which the first result are logits.
        places: for the name of each value the dimension of its channels.
        images: (n, channels, height, width) float32.
        seed: of the classes that are drawn.

    Returns:
        float64 (channels,): the diagonal of the Fisher information, summed over positions, averaged over
        images. Half of it times an error's mean square is its divergence in nats.
    """
    totals: dict[str, torch.Tensor] = {}

    def look(_: int, values: Mapping[str, torch.Tensor], gradients: Sequence[torch.Tensor | None]) -> None:
        for name, gradient in zip(values, gradients, strict=True):
            if gradient is not None:
                squares = gradient.movedim(places[name], 0).flatten(1).double().square().sum(1)
                totals[name] = totals.get(name, torch.zeros_like(squares)) + squares

    _backward(program, list(places), images, seed, look)
    return {name: total / len(images) for name, total in totals.items()}


def gate_information(
    program: Program,
    gates: Mapping[str, tuple[str, int, torch.Tensor]],
    images: torch.Tensor,
    *,
    seed: int,
) -> dict[str, torch.Tensor]:
    """For groups of channels, how much it matters to scale each of them; half of it is what its loss costs.

    Args:
        program: of which the first result are logits.
        gates: by any name: a value, the dimension of its channels, and int64 (channels,), the group of each
            or -1.
        images: (n, channels, height, width) float32.
        seed: of the classes that are drawn.

    Returns:
        float64 (groups,) for each name.
    """
    totals = {
        name: torch.zeros(int(units.max()) + 1, dtype=torch.float64) for name, (_, _, units) in gates.items()
    }
    names = sorted({value for value, _, _ in gates.values()})

    def look(
        count: int, values: Mapping[str, torch.Tensor], gradients: Sequence[torch.Tensor | None]
    ) -> None:
        found = dict(zip(values, gradients, strict=True))
        for name, (value, place, units) in gates.items():
            gradient = found[value]
            if gradient is None:
                continue
            # The derivative by a factor on a group of one image: what passes times its gradient. Windows are
            # folded into the batch, within each image.
            passing = (gradient * values[value].detach()).double()
            by_channel = passing.movedim(place, -1)
            by_channel = by_channel.reshape(count, -1, len(units)).sum(1)
            sums = torch.zeros(len(by_channel), len(totals[name]) + 1, dtype=torch.float64)
            sums.index_add_(1, torch.where(units < 0, len(totals[name]), units), by_channel)
            totals[name] += sums[:, :-1].square().sum(0)

    _backward(program, names, images, seed, look)
    return {name: total / len(images) for name, total in totals.items()}


def _backward(
    program: Program,
    names: Sequence[str],
    images: torch.Tensor,
    seed: int,
    look: Callable[[int, Mapping[str, torch.Tensor], Sequence[torch.Tensor | None]], None],
) -> None:
    """Show values with the gradients of drawn classes' log-likelihoods, batch by batch."""
    runner, generator = Runner(program), torch.Generator().manual_seed(seed)
    result = runner.results[0]
    parts = list(batches(images, _BATCH))
    for part in track(parts, "weighing errors", len(parts)):
        # The image's gradient is of no use, but with it every value has one.
        image = {runner.image: part.clone().requires_grad_()}
        found: dict[str, Any] = runner.run(image, [*names, result])
        logits = found[result]
        drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)
        likelihood = logits.log_softmax(-1).gather(1, drawn).sum()
        values = {name: found[name] for name in names}
        look(len(part), values, torch.autograd.grad(likelihood, list(values.values()), allow_unused=True))
