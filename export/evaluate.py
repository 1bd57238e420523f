"""Evaluate a saved Program or an exported artefact on a folder of labelled images."""

from __future__ import annotations

from pathlib import Path

from edgevit.evaluation import Evaluation, evaluate_runnable
from edgevit.export.artefacts import open_runnable
from edgevit.graph.program import Program
from edgevit.images import OnBadImage, open_folder


def evaluate(
    model: str | Path | Program, *, data: str | Path, on_bad_image: OnBadImage = "fail"
) -> Evaluation:
    """Top-1 and top-5 accuracy, the images prepared as the model's card says.

    Args:
        model: a Program, its ``.pt2``, or an exported artefact, which is run in its own runtime.
        data: a folder of labelled images (see `edgevit.images.open_folder`).
        on_bad_image: "fail" or "skip".

    Raises:
        EdgevitError: when the model or the images cannot be used.
    """
    runnable = model if isinstance(model, Program) else open_runnable(model)
    folder = open_folder(data, num_classes=runnable.num_classes, class_names=runnable.card.labels)
    return evaluate_runnable(runnable, folder, on_bad_image=on_bad_image)
