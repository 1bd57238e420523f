"""How far a submodel and its parent say the same of the same images.

The measures of MatFormer (arXiv 2310.07707, section 4): whether predictions agree, how far their
probabilities are apart, and whether images are found by features: those of the submodel ask, those of the
parent answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from edgevit.graph.predictions import divergence
from edgevit.graph.program import Array, Program
from edgevit.pruning.dataset import Labels
from edgevit.pruning.heads import with_features


@dataclass(frozen=True)
class Consistency:
    """What a submodel and its parent have in common.

    Attributes:
        agreement: percent of images for which both find the same class.
        divergence: KL(parent || submodel) of the predictions, in nats.
        accuracy: top-1 percent of the submodel; None without labels.
        neighbour: percent of images whose nearest other image has their class, by the cosine of the
            submodel's features with the parent's; None without labels, or where there are fewer features.
    """

    agreement: float
    divergence: float
    accuracy: float | None
    neighbour: float | None


@dataclass(frozen=True, eq=False)
class Reference:
    """What a parent gives for some images.

    Attributes:
        images: (n, channels, height, width) float32.
        logits: (n, classes).
        features: (n, width), what its classifier reads.
        labels: (n,); None where there are none.
    """

    images: Array
    logits: torch.Tensor
    features: torch.Tensor
    labels: Labels | None

    @classmethod
    def of(cls, parent: Program, images: Array, labels: Labels | None = None) -> Reference:
        """Run a parent once.

        Raises:
            EdgevitError: when it has no classifier (`edgevit.pruning.heads.classifier_of`).
        """
        logits, features = _outputs(parent, images)
        return cls(images, logits, features, labels)

    def consistency(self, submodel: Program) -> Consistency:
        """How far a submodel says the same."""
        logits, features = _outputs(submodel, self.images)
        best = logits.argmax(1)
        accuracy = neighbour = None
        if self.labels is not None:
            labels = torch.from_numpy(self.labels)
            accuracy = _percent(best == labels)
            if features.shape == self.features.shape:
                neighbour = _percent(labels[self._nearest(features)] == labels)
        return Consistency(
            agreement=_percent(best == self.logits.argmax(1)),
            divergence=float(divergence(self.logits.double(), logits.double())),
            accuracy=accuracy,
            neighbour=neighbour,
        )

    def _nearest(self, features: torch.Tensor) -> torch.Tensor:
        """For each image the other one whose features, of the parent, are nearest: (n,)."""
        cosine = functional.normalize(features, dim=1) @ functional.normalize(self.features, dim=1).T
        return cosine.fill_diagonal_(-torch.inf).argmax(1)


def _outputs(program: Program, images: Array) -> tuple[torch.Tensor, torch.Tensor]:
    logits, *_, features = (torch.from_numpy(part) for part in with_features(program).run(images))
    return logits, features


def _percent(right: torch.Tensor) -> float:
    return 100 * float(right.float().mean())
