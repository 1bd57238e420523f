"""What the predictions say of an error: gradients of the log-likelihoods of classes drawn from them.

To second order, the divergence KL(float || changed) of the predictions is half the quadratic form of their
Fisher information with the change (Martens 2020, arXiv 1412.1193, section 5), and that is the mean outer
product of these gradients. The classes are the float prediction's own: no labels are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch

from edgevit.graph.running import Override, Runner, batches
from edgevit.progress import track

# Images that run at once: every value is kept for its gradient.
_BATCH = 16

# Gets the number of images, and for the name of each value that matters the value and its gradient.
Look = Callable[[int, Mapping[str, tuple[torch.Tensor, torch.Tensor]]], None]


def backward(runner: Runner, names: Collection[str], images: torch.Tensor, look: Look, *, seed: int) -> None:
    """Show values with the gradients of drawn classes' log-likelihoods, batch by batch.

    Args:
        runner: of a program of which the first result are logits.
        names: of calls that give a tensor; what has no influence on the logits is not shown.
        images: (n, channels, height, width) float32.
        look: gets the values of a batch, in the order of their names.
        seed: of the classes that are drawn.
    """
    generator, result = torch.Generator().manual_seed(seed), runner.results[0]
    overrides = {name: _with_gradient(runner.nodes[name].target) for name in names}
    parts = list(batches(images, _BATCH))
    for part in track(parts, "weighing errors", len(parts)):
        # The image's gradient is of no use, but with it every value that comes of it has one.
        image = {runner.image: part.clone().requires_grad_()}
        values: dict[str, Any] = runner.run(image, [*names, result], overrides=overrides)
        logits = values[result]
        drawn = torch.multinomial(logits.detach().softmax(-1).cpu(), 1, generator=generator)
        likelihood = logits.log_softmax(-1).gather(1, drawn.to(logits.device)).sum()
        gradients = torch.autograd.grad(likelihood, [values[name] for name in names], allow_unused=True)
        pairs = zip(names, gradients, strict=True)
        look(len(part), {name: (values[name].detach(), found) for name, found in pairs if found is not None})


def _with_gradient(target: Any) -> Override:
    """The operator, for what does not depend on the image as well, such as a layer of learned tokens."""

    def compute(*args: Any, **kwargs: Any) -> Any:
        value = target(*args, **kwargs)
        return value if value.requires_grad else value.requires_grad_()

    return compute
