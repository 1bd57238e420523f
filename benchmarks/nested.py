"""A small nested Vision Transformer on CIFAR-10: its submodels against models trained by themselves.

Usage: python benchmarks/nested.py [--shared DIR] [--train N] [--epochs N] [--submodels 120] [--images N]
           [--torch-device cpu|cuda] [--precision float32|bfloat16] [--work DIR] [--write docs/submodels.md]
           [--example examples/cifar10]

`examples/cifar10/small_vit.py` is trained by what `edgevit train-nested` calls, at the four widths of
MatFormer; beside it one model for each width alone, on the same images, with the same recipe, for as many
steps. Then as many submodels as are asked for, a width drawn for each layer, which no step of the training
ever ran: how far each lies from the line through the trained ones, in accuracy over parameters. All are
judged on test images that nothing has seen; latency is that of ONNX Runtime on one thread, timed in turns
with the whole. With --write the table, and the plot beside the document, with --example the nested Program
and its named slices are put where they belong.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "examples/cifar10"))

from small_vit import HIDDEN, small_vit  # noqa: E402

from benchmarks.plots import Line, write_plot  # noqa: E402
from benchmarks.tables import write_table  # noqa: E402
from edgevit.graph.capture import capture  # noqa: E402
from edgevit.graph.program import Program  # noqa: E402
from edgevit.measured_submodels import train_nested_folder  # noqa: E402
from edgevit.profiling.relative import all_relative  # noqa: E402
from edgevit.pruning.dataset import Images, Labels, read_labelled  # noqa: E402
from edgevit.pruning.loop import TrainingOptions  # noqa: E402
from edgevit.submodels.extraction import extract  # noqa: E402
from edgevit.submodels.nesting import Widths, nesting_of  # noqa: E402
from edgevit.submodels.slices import read_slices, slices_beside  # noqa: E402
from edgevit.submodels.training import SHARES, NestedOptions  # noqa: E402

HEADER = (
    "| MLP width | parameters | latency | nested, % | by itself, % | difference |\n|---|---|---|---|---|---|"
)
NAMES = dict(zip(SHARES, ("S", "M", "L", "XL"), strict=True))


@dataclass(frozen=True)
class Task:
    """What is trained and judged with.

    Attributes:
        data: folder of training images.
        test: images to judge with, (n, 3, 32, 32).
        truth: their classes.
        options: rates and lengths, the same for all.
        train: how many images are trained with; a tenth of them are held out.
        torch_device: where torch trains.
        work: where everything is kept.
    """

    data: Path
    test: Images
    truth: Labels
    options: TrainingOptions
    train: int
    torch_device: str
    work: Path

    def top1(self, program: Program) -> float:
        """Percent of the test images."""
        found = program.run(self.test.astype(np.float32))[0].argmax(1)
        return 100 * float((found == self.truth).mean())

    def trained(self, name: str, hidden: int, shares: tuple[float, ...]) -> Program:
        """A model of some hidden width, trained at some shares of it; kept in a file."""
        path = self.work / f"{name}.pt2"
        if not path.exists():
            train_nested_folder(
                untrained(hidden, self.options.seed),
                data=self.data,
                output=path,
                nested=NestedOptions(shares=shares),
                options=self.options,
                images=self.train,
                torch_device=self.torch_device,
            )
        return Program.load(path)


def untrained(hidden: int, seed: int) -> Program:
    """The model with weights drawn by chance."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = small_vit(hidden)
    return capture(
        module.eval(),
        input_size=(32, 32),
        resize=(32, 32),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        name="small_vit_cifar10",
    )


def uniform(parent: Program, share: float) -> Widths:
    """A share of every axis."""
    return {name: round(share * allowed[-1]) for name, allowed in nesting_of(parent).widths.items()}


def drawn(parent: Program, count: int, seed: int) -> list[Widths]:
    """Submodels with a width drawn for each axis, none of them uniform and none twice."""
    random = np.random.default_rng(seed)
    allowed = nesting_of(parent).widths
    found: dict[tuple[int, ...], None] = {}
    while len(found) < count:
        key = tuple(int(random.choice(widths)) for widths in allowed.values())
        if len(set(key)) > 1:
            found[key] = None
    return [dict(zip(allowed, key, strict=True)) for key in found]


def measured(task: Task, parent: Program, name: str, several: list[Widths]) -> list[tuple[int, float]]:
    """Parameters and top-1 percent of submodels; kept in a file."""
    path = task.work / f"{name}.json"
    if not path.exists():
        found = []
        for widths in several:
            small = extract(parent, widths)
            found.append((small.parameter_count, task.top1(small)))
        path.write_text(json.dumps(found), encoding="utf-8")
    return [(int(size), float(top1)) for size, top1 in json.loads(path.read_text(encoding="utf-8"))]


def table_of(
    task: Task,
    nested: list[tuple[int, float]],
    latencies: list[float],
    alone: list[float],
    between: list[tuple[int, float]],
) -> str:
    """The four widths, and what is said of the submodels between them."""
    rows = [
        f"| {NAMES[share]} ({share:g}) | {size / 1e6:.3f} M | {latency:.2f}x | {top1:.2f} | {own:.2f} "
        f"| {top1 - own:+.2f} |"
        for share, (size, top1), latency, own in zip(SHARES, nested, latencies, alone, strict=True)
    ]
    sizes, accuracies = zip(*nested, strict=True)
    apart = np.array([top1 - np.interp(size, sizes, accuracies) for size, top1 in between])
    near = int((apart >= -1).sum())
    below = (
        f"\n{len(between)} submodels with a width drawn for each layer, none of them ever trained: "
        f"{near} lie within 1 point of the line through the four, or above it; the median is "
        f"{np.median(apart):+.2f} points, the worst {apart.min():+.2f}, the best {apart.max():+.2f}. "
        f"{len(task.truth)} test images; trained on {task.train * 9 // 10} for {task.options.epochs} epochs."
    )
    return "\n".join([HEADER, *rows, below])


def draw(
    path: Path, nested: list[tuple[int, float]], alone: list[float], between: list[tuple[int, float]]
) -> None:
    """Accuracy over millions of parameters."""
    sizes = [size / 1e6 for size, _ in nested]
    lines = [
        Line("a width drawn for each layer", [(size / 1e6, top1) for size, top1 in between], "#9db7ee"),
        Line(
            "nested, at the widths trained",
            list(zip(sizes, (top1 for _, top1 in nested), strict=True)),
            "#2b59c3",
            joined=True,
        ),
        Line("trained by itself", list(zip(sizes, alone, strict=True)), "#a11f19"),
    ]
    write_plot(path, lines, across="parameters, millions", up="top-1 on CIFAR-10, %")


def write_example(folder: Path, program: Path) -> None:
    """The nested Program, its slices by the names that MatFormer gives them."""
    slices = read_slices(slices_beside(program), Program.load(program))
    named = [
        one.model_copy(update={"name": name}) for one, name in zip(slices.slices, NAMES.values(), strict=True)
    ]
    path = folder / "small_vit_cifar10.pt2"
    shutil.copy(program, path)
    slices.model_copy(update={"slices": tuple(named)}).write(slices_beside(path))


def task_of(options: argparse.Namespace, work: Path) -> Task:
    """The images."""
    data = work / "data"
    if not data.exists():
        for part in ("train", "test"):
            with tarfile.open(options.shared / f"data/cifar10-{part}.tar.xz") as archive:
                archive.extractall(data, filter="data")
    test, truth = read_labelled(untrained(HIDDEN, 0), data / "cifar10-test", count=options.images)
    return Task(
        data=data / "cifar10-train",
        test=test,
        truth=truth,
        options=TrainingOptions(
            epochs=options.epochs, batch=64, lr=1e-3, flip=True, crop_padding=4, precision=options.precision
        ),
        train=options.train,
        torch_device=options.torch_device,
        work=work,
    )


def main() -> None:
    """Train, measure, print, and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shared", type=Path, default=ROOT.parent / "shared", help="where data and weights are"
    )
    parser.add_argument("--train", type=int, default=20000, help="images to train with")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--submodels", type=int, default=120)
    parser.add_argument("--images", type=int, default=10000, help="images to judge with, at most")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of training")
    parser.add_argument("--torch-device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--work", type=Path, help="keep everything here; a run that is repeated goes on from it"
    )
    parser.add_argument("--write", type=Path, help="document that has the table's markers")
    parser.add_argument("--example", type=Path, help="folder for the nested Program and its slices")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        task = task_of(options, work)
        parent = task.trained("nested", HIDDEN, SHARES)
        nested = measured(task, parent, "trained", [uniform(parent, share) for share in SHARES])
        between = measured(task, parent, "between", drawn(parent, options.submodels, 0))
        alone = [
            task.top1(task.trained(f"alone-{share:g}", round(share * HIDDEN), (1.0,))) for share in SHARES
        ]
        _, relatives = all_relative(
            parent, [extract(parent, uniform(parent, share)) for share in SHARES], "onnx"
        )
        table = table_of(task, nested, [one.latency for one in relatives], alone, between)
        if options.write:
            write_table(options.write, "nested.py", table)
            draw(options.write.with_name("nested.svg"), nested, alone, between)
        if options.example:
            write_example(options.example, work / "nested.pt2")
    print(table)


if __name__ == "__main__":
    main()
