"""ViT-Tiny made elastic without training: its submodels against narrower ways of taking units away.

Usage: python benchmarks/submodels.py [--shared DIR] [--calib 256] [--images N] [--widths 0.75,0.5,0.25]
           [--write docs/submodels.md]

timm's ViT-Tiny (AugReg weights), every MLP at a share of its hidden width, judged on images of ImageNet's
validation set that no layer was fitted with. Beside the submodel as the elastic Program holds it, and with
its layers fitted to it, stand the first units as they come (what slicing an ordinary model gives), units
sorted by the gradient's importance (Molchanov et al. 2019, arXiv 1906.10771) and by elimination as edgevit
sorts them, all three with the old columns of the layers behind. Latency is that of ONNX Runtime on one
thread, timed in turns with the whole. With --write the table, and the plot beside the document.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.plots import Line, write_plot  # noqa: E402
from benchmarks.pruning import timm_vit  # noqa: E402
from benchmarks.tables import write_table  # noqa: E402
from edgevit.graph.axes import Axis, find_axes  # noqa: E402
from edgevit.graph.capture import capture  # noqa: E402
from edgevit.graph.costs import count_macs  # noqa: E402
from edgevit.graph.program import Array, Program  # noqa: E402
from edgevit.images import ImageReader, open_folder  # noqa: E402
from edgevit.profiling.relative import all_relative  # noqa: E402
from edgevit.pruning.importance import importance  # noqa: E402
from edgevit.submodels.elastic import elastic, sort_units, widths_of  # noqa: E402
from edgevit.submodels.extraction import extract, refitted  # noqa: E402
from edgevit.submodels.nesting import Nesting, nesting_of, with_nesting  # noqa: E402

HEADER = (
    "| MLP width | MACs | parameters | latency | first units, % | by gradient, % | by elimination, % "
    "| elastic, % | fitted, % |\n|---|---|---|---|---|---|---|---|---|"
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


@dataclass(frozen=True)
class Row:
    """Every MLP at one share.

    Attributes:
        share: of the hidden width.
        small: the submodel with its layers fitted, which is as large as the others.
        top1: percent of the images by how it was made.
    """

    share: float
    small: Program
    top1: Mapping[str, float]

    def markdown(self, latency: float) -> str:
        """A line of the table; latency relative to the whole."""
        accuracies = " | ".join(f"{top1:.2f}" for top1 in self.top1.values())
        return (
            f"| {self.share:g} | {count_macs(self.small) / 1e6:.0f} M | {_millions(self.small):.2f} M "
            f"| {latency:.2f}x | {accuracies} |"
        )


def _millions(program: Program) -> float:
    return program.parameter_count / 1e6


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


def row(task: Task, parents: Mapping[str, Program], share: float) -> Row:
    """Every MLP at one share, judged."""
    nesting = nesting_of(parents["elastic"])
    widths = {name: widths_of(allowed[-1], (share,))[0] for name, allowed in nesting.widths.items()}
    small = {name: extract(parent, widths) for name, parent in parents.items()}
    small["fitted"] = refitted(parents["elastic"], widths, torch.from_numpy(task.calib))
    return Row(share, small["fitted"], {name: task.top1(program) for name, program in small.items()})


def draw(path: Path, rows: Sequence[Row], whole: Program, top1: float) -> None:
    """Accuracy over millions of parameters, by how a submodel was made."""
    colours = dict(zip(rows[0].top1, ("#9aa3b2", "#c98a1b", "#a11f19", "#2b59c3", "#1b7f4b"), strict=True))
    names = {"first": "first units", "gradient": "by gradient", "elimination": "by elimination"}
    lines = [
        Line(
            names.get(how, how),
            [*((_millions(row.small), row.top1[how]) for row in reversed(rows)), (_millions(whole), top1)],
            colour,
            joined=True,
        )
        for how, colour in colours.items()
    ]
    write_plot(path, lines, across="parameters, millions", up="top-1 on ImageNet, %")


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
        print(share, rows[-1].top1, file=sys.stderr, flush=True)
    top1 = task.top1(task.whole)
    _, relatives = all_relative(task.whole, [one.small for one in rows], "onnx")
    below = (
        f"\nThe whole: {top1:.2f} % of {len(task.images)} images, "
        f"{count_macs(task.whole) / 1e6:.0f} M MACs, {_millions(task.whole):.2f} M parameters; "
        f"fitted with {len(task.calib)} images."
    )
    lines = [one.markdown(beside.latency) for one, beside in zip(rows, relatives, strict=True)]
    table = "\n".join([HEADER, *lines, below])
    print(table)
    if options.write:
        write_table(options.write, "submodels.py", table)
        draw(options.write.with_name("elastic.svg"), rows, task.whole, top1)


if __name__ == "__main__":
    main()
