"""ViT-Tiny made elastic without training: its submodels against narrower ways of taking units away.

Usage: python benchmarks/submodels.py [--shared DIR] [--calib 256] [--images N] [--widths 0.75,0.5,0.25]
           [--write docs/submodels.md]

timm's ViT-Tiny (AugReg weights), every MLP at a share of its hidden width, judged on images of ImageNet's
validation set that no layer was fitted with. Beside the submodel as the elastic Program holds it, and with
its layers fitted to it, stand the first units as they come (what slicing an ordinary model gives), units
sorted by the gradient's importance (Molchanov et al. 2019, arXiv 1906.10771) and by elimination as edgevit
sorts them, all three with the old columns of the layers behind.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.pruning import timm_vit  # noqa: E402
from benchmarks.tables import write_table  # noqa: E402
from edgevit.graph.axes import Axis, find_axes  # noqa: E402
from edgevit.graph.capture import capture  # noqa: E402
from edgevit.graph.costs import count_macs  # noqa: E402
from edgevit.graph.program import Array, Program  # noqa: E402
from edgevit.images import ImageReader, open_folder  # noqa: E402
from edgevit.pruning.importance import importance  # noqa: E402
from edgevit.submodels.elastic import elastic, sort_units, widths_of  # noqa: E402
from edgevit.submodels.extraction import extract, refitted  # noqa: E402
from edgevit.submodels.nesting import Nesting, nesting_of, with_nesting  # noqa: E402

HEADER = (
    "| MLP width | MACs | parameters | first units, % | by gradient, % | by elimination, % | elastic, % "
    "| fitted, % |\n|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Task:
    """What is compared.

    Attributes:
        whole: the model.
        calib: images to fit with, (n, 3, height, width) float32.
        images: to judge with, likewise.
        truth: their classes.
    """

    whole: Program
    calib: Array
    images: Array
    truth: np.ndarray

    def top1(self, program: Program) -> float:
        """Percent of the images."""
        return 100 * float((program.run(self.images)[0].argmax(1) == self.truth).mean())


def sorted_by_gradient(program: Program, axes: list[Axis], images: torch.Tensor) -> Program:
    """The units of each axis with the most important first."""
    found = importance(program, axes, images, method="gradient")
    return sort_units(program, {axis: found[axis].argsort(descending=True).tolist() for axis in axes})


def parents_of(task: Task, shares: tuple[float, ...]) -> dict[str, Program]:
    """Nested Programs by how their units are sorted; the last one has layers for each width as well."""
    images = torch.from_numpy(task.calib)
    made = elastic(task.whole, task.calib, shares=shares).program
    names = nesting_of(made).widths
    # The same graph as the elastic one, its units as they came.
    plain = prepared(task.whole)
    axes = [axis for axis in find_axes(plain) if axis.name in names]
    widths = Nesting({axis.name: widths_of(axis.size, shares) for axis in axes})
    return {
        "first": with_nesting(plain, widths),
        "gradient": with_nesting(sorted_by_gradient(plain, axes, images), widths),
        "elimination": with_nesting(made, widths),
        "elastic": made,
    }


def prepared(program: Program) -> Program:
    """As elastic Programs are."""
    from edgevit.graph.rewrites import prepare_for_export
    from edgevit.graph.rewrites.split_projections import split_projections

    return split_projections(prepare_for_export(program))


def row(task: Task, parents: Mapping[str, Program], share: float) -> str:
    """A line of the table: every MLP at one share."""
    nesting = nesting_of(parents["elastic"])
    widths = {name: widths_of(allowed[-1], (share,))[0] for name, allowed in nesting.widths.items()}
    small = {name: extract(parent, widths) for name, parent in parents.items()}
    small["fitted"] = refitted(parents["elastic"], widths, torch.from_numpy(task.calib))
    one = small["elastic"]
    accuracies = " | ".join(f"{task.top1(program):.2f}" for program in small.values())
    return f"| {share:g} | {count_macs(one) / 1e6:.0f} M | {one.parameter_count / 1e6:.2f} M | {accuracies} |"


def task_of(shared: Path, calib: int, count: int | None) -> Task:
    """The model and its images."""
    whole = capture(
        timm_vit(shared), input_size=(224, 224), resize=248, mean=(0.5,) * 3, std=(0.5,) * 3, name="vit_tiny"
    )
    preprocessing = whole.card.preprocessing
    fitted = ImageReader(
        open_folder(shared / "data/imagenet-calib").sample(calib, 0), preprocessing
    ).read_all()
    folder = open_folder(shared / "data/imagenet-val", num_classes=whole.num_classes)
    folder.require_labels()
    if count is not None:
        folder = folder.sample(count, 0)
    batches = list(ImageReader(folder, preprocessing))
    labels = [label for batch in batches for label in batch.labels or ()]
    return Task(whole, fitted, np.concatenate([batch.images for batch in batches]), np.asarray(labels))


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shared", type=Path, default=ROOT.parent / "shared", help="where data and weights are"
    )
    parser.add_argument("--calib", type=int, default=256, help="images to fit with")
    parser.add_argument("--images", type=int, help="images to judge with, at most")
    parser.add_argument("--widths", default="0.75,0.5,0.25")
    parser.add_argument("--write", type=Path, help="document that has the table's markers")
    options = parser.parse_args()
    task = task_of(options.shared, options.calib, options.images)
    shares = tuple(float(word) for word in options.widths.split(","))
    parents = parents_of(task, shares)
    rows = []
    for share in shares:
        rows.append(row(task, parents, share))
        print(rows[-1], file=sys.stderr, flush=True)
    below = (
        f"\nThe whole: {task.top1(task.whole):.2f} % of {len(task.images)} images, "
        f"{count_macs(task.whole) / 1e6:.0f} M MACs, {task.whole.parameter_count / 1e6:.2f} M parameters; "
        f"fitted with {len(task.calib)} images."
    )
    table = "\n".join([HEADER, *rows, below])
    print(table)
    if options.write:
        write_table(options.write, "submodels.py", table)


if __name__ == "__main__":
    main()
