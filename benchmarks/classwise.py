"""ViT-Tiny on CIFAR-10, split by classes into N sub-models, and pruned whole to the same cost.

Usage: python benchmarks/classwise.py [--shared DIR] [--pixels 64] [--train N] [--epochs N] [--learn N]
           [--retrain N] [--parts 1,2,3,5,10] [--images N] [--torch-device cpu|cuda]
           [--precision float32|bfloat16] [--work DIR] [--write docs/splitting.md]
       python -m pip install torch-pruning==1.6.1     (the peer)

timm's ViT-Tiny (AugReg weights) is fine-tuned on CIFAR-10 first: by default on a subset at 64 pixels, which
two CPU cores do in a quarter of an hour. Each row is a whole split, N sub-models for N random subsets of the
classes, as published, and the fusion of their features, judged on test images that nothing has seen, with
every part, with each one lost, and with every part in eight bits. Beside it the control, one model for all
classes in eight bits at the costs of the costliest part, and what Torch-Pruning leaves of the whole at the
same arithmetic. All are trained on the same images, for as many epochs, with the whole as teacher. Latency is
that of ONNX Runtime on one thread, timed in turns with the whole. With --write the rows go into the document,
and into `measured/classwise.json` beside this file, which keeps those of other N with the same settings.
"""

from __future__ import annotations

import argparse
import bisect
import functools
import json
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.pruning import _timm, narrow_heads  # noqa: E402
from benchmarks.tables import write_table  # noqa: E402
from edgevit.graph.capture import capture  # noqa: E402
from edgevit.graph.costs import count_macs  # noqa: E402
from edgevit.graph.program import Program  # noqa: E402
from edgevit.profiling.relative import all_relative  # noqa: E402
from edgevit.pruning.classwise import check_split, split_with  # noqa: E402
from edgevit.pruning.dataset import Images, Labels, held_out, outputs_of, read_labelled  # noqa: E402
from edgevit.pruning.heads import weights_of_classifier, with_features  # noqa: E402
from edgevit.pruning.loop import Precision, TrainingOptions  # noqa: E402
from edgevit.pruning.options import SplitOptions  # noqa: E402
from edgevit.pruning.parts import costs_of  # noqa: E402
from edgevit.pruning.split import CONTROL_FILE, Split, read_split  # noqa: E402
from edgevit.pruning.training import train  # noqa: E402
from edgevit.quant.quantizing import quantize  # noqa: E402

MEASURED = ROOT / "benchmarks/measured/classwise.json"
CLASSES = 10
HEADER = (
    "| N | fused % | worst part lost, % | largest part: bytes | MACs | latency | features sent, bytes "
    "| parts in 8 bits, % | bytes | control in 8 bits, % | bytes | latency | Torch-Pruning, % |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Task:
    """What is compared.

    Attributes:
        whole: the fine-tuned model.
        images: to learn from, (n, 3, height, width) float16.
        labels: the class of each.
        test: images to judge with, likewise.
        truth: their classes.
        retrain: epochs after pruning.
        precision: of the arithmetic of training.
        torch_device: where torch runs and trains.
    """

    whole: Program
    images: Images
    labels: Labels
    test: Images
    truth: Labels
    retrain: int
    precision: Precision
    torch_device: str

    def top1(self, logits: torch.Tensor) -> float:
        """Percent of the test images."""
        return 100 * float((logits.argmax(1).numpy() == self.truth).mean())

    def logits(self, program: Program) -> torch.Tensor:
        """Of the test images."""
        return outputs_of(program, self.test, torch_device=self.torch_device)[0]


@dataclass(frozen=True)
class Row:
    """One N.

    Attributes:
        parts: how many.
        whole: top-1 percent of the model that was split.
        fused: top-1 percent of all together.
        lost: the same with each part missing; empty for a single one.
        bytes: of the largest part, relative to the whole.
        macs: of the costliest, likewise.
        latency: of the slowest, likewise.
        sent: bytes of the features of all parts, for one image.
        eight: top-1 percent of all parts together, each in eight bits.
        eight_bytes: of the largest of these, relative to the whole.
        control: top-1 percent of one model in eight bits.
        control_bytes: relative to the whole.
        control_latency: likewise.
        peer: top-1 percent of what Torch-Pruning left.
    """

    parts: int
    whole: float
    fused: float
    lost: tuple[float, ...]
    bytes: float
    macs: float
    latency: float
    sent: int
    eight: float
    eight_bytes: float
    control: float
    control_bytes: float
    control_latency: float
    peer: float

    def markdown(self) -> str:
        """A line of the table."""
        worst = f"{min(self.lost):.2f}" if self.lost else "-"
        return (
            f"| {self.parts} | {self.fused:.2f} | {worst} | {self.bytes:.3f}x | {self.macs:.3f}x "
            f"| {self.latency:.2f}x | {self.sent} | {self.eight:.2f} | {self.eight_bytes:.3f}x "
            f"| {self.control:.2f} | {self.control_bytes:.3f}x "
            f"| {self.control_latency:.2f}x | {self.peer:.2f} |"
        )


def vit(pixels: int) -> nn.Module:
    """An untrained ViT-Tiny for CIFAR-10."""
    module: nn.Module = _timm().create_model("vit_tiny_patch16_224", img_size=pixels, num_classes=CLASSES)
    for block in module.blocks:  # type: ignore[union-attr]
        # The other path takes its scale from the width that it finds, not from the one it was trained with.
        block.attn.fused_attn = False
    return module.eval()


def start(shared: Path, pixels: int) -> Program:
    """ViT-Tiny with its ImageNet weights, its positions resampled and its classifier new."""
    from safetensors.torch import load_file

    module = vit(pixels)
    checkpoint_filter_fn = _timm().models.vision_transformer.checkpoint_filter_fn
    state = checkpoint_filter_fn(load_file(shared / "weights/vit_tiny_patch16_224.safetensors"), module)
    module.load_state_dict({k: v for k, v in state.items() if not k.startswith("head.")}, strict=False)
    torch.manual_seed(0)
    nn.init.trunc_normal_(module.head.weight, std=0.02)
    nn.init.zeros_(module.head.bias)
    return captured(module, pixels)


def captured(module: nn.Module, pixels: int) -> Program:
    """As a Program."""
    return capture(
        module,
        input_size=(pixels, pixels),
        resize=(pixels, pixels),
        interpolation="bicubic",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        name="vit_tiny_cifar10",
    )


def fine_tuned(path: Path, options: argparse.Namespace, images: Images, labels: Labels) -> Program:
    """The whole; kept in a file."""
    if not path.exists():
        learned = train(
            start(options.shared, options.pixels),
            torch.from_numpy(images),
            torch.from_numpy(labels),
            options=TrainingOptions(
                epochs=options.epochs,
                batch=32,
                lr=1.5e-4,
                flip=True,
                crop_padding=options.pixels // 12,
                precision=options.precision,
            ),
            checkpoint=path.with_suffix(".training"),
            torch_device=options.torch_device,
        )
        learned.save(path)
    return Program.load(path)


def row(task: Task, parts: int, folder: Path) -> Row:
    """Split, and compare."""
    if not folder.exists():
        options = split_options(task, parts)
        check_split(task.whole, options, folder, force=False)
        split_with(task.whole, task.images, task.labels, folder, options)
    split, control = read_split(folder), Program.load(folder / CONTROL_FILE)
    manifest = split.manifest
    whole_bytes, whole_macs = manifest.whole.bytes, manifest.whole.macs
    _, relatives = all_relative(task.whole, [*split.parts, control], "onnx")
    macs = max(part.macs for part in manifest.parts)
    fused, lost = accuracies(task, split)
    small = in_eight_bits(task, split, folder.with_name(f"{folder.name}-w8a8"))
    return Row(
        parts=parts,
        whole=task.top1(task.logits(task.whole)),
        fused=fused,
        lost=lost,
        bytes=max(part.bytes for part in manifest.parts) / whole_bytes,
        macs=macs / whole_macs,
        latency=max(one.latency for one in relatives[:-1]),
        sent=sum(part.bytes_sent for part in manifest.parts),
        eight=fused_top1(task, split, features_of(task, small), None),
        eight_bytes=max(costs_of(part)[1] for part in small) / whole_bytes,
        control=task.top1(task.logits(control)),
        control_bytes=manifest.control.bytes / whole_bytes,
        control_latency=relatives[-1].latency,
        peer=task.top1(task.logits(peer(task, manifest.options.keep, folder.parent))),
    )


def accuracies(task: Task, split: Split) -> tuple[float, tuple[float, ...]]:
    """Top-1 percent with every part, and with each one missing."""
    features = features_of(task, split.parts)
    fused = functools.partial(fused_top1, task, split, features)
    return fused(None), tuple(fused(place) for place in range(len(features)) if len(features) > 1)


def features_of(task: Task, parts: Sequence[Program]) -> list[torch.Tensor]:
    """What each part sends for the test images."""
    return [outputs_of(part, task.test, torch_device=task.torch_device)[-1] for part in parts]


def in_eight_bits(task: Task, split: Split, folder: Path) -> list[Program]:
    """The parts, quantized; the fusion stays the one of float parts."""
    images = task.images[np.random.default_rng(0).permutation(len(task.images))[:256]].astype(np.float32)
    folder.mkdir(exist_ok=True)
    found = []
    for part in split.parts:
        path = folder / f"{part.card.name}.pt2"
        if not path.exists():
            quantize(part, images, precision="w8a8", torch_device=task.torch_device).program.save(path)
        found.append(Program.load(path))
    return found


def fused_top1(task: Task, split: Split, features: list[torch.Tensor], lost: int | None) -> float:
    """Top-1 percent where one part gives nothing."""
    given = [None if place == lost else part for place, part in enumerate(features)]
    return task.top1(split.fusion.predict(given))


def peer(task: Task, share: float, work: Path) -> Program:
    """What Torch-Pruning's Taylor importance leaves within the budget of a part, trained as parts are."""
    path = work / f"peer-{share:.3f}.pt2"
    if not path.exists():
        options = split_options(task, 1)
        learned, _ = held_out(task.labels, options.held_out, options.seed)
        images, labels = torch.from_numpy(task.images[learned]), torch.from_numpy(task.labels[learned])
        logits, *_, features = outputs_of(
            with_features(task.whole), task.images[learned], torch_device=task.torch_device
        )
        pruned = _within(task, int(share * count_macs(task.whole)), images[:256].float(), labels[:256])
        trained = train(
            pruned,
            images,
            labels,
            teacher=logits,
            features=features,
            classifier=weights_of_classifier(task.whole),
            options=options.training,
            torch_device=task.torch_device,
        )
        trained.save(path)
    return Program.load(path)


def split_options(task: Task, parts: int) -> SplitOptions:
    """How the whole is split, and how what comes of it is trained."""
    padding = task.images.shape[-1] // 12
    return SplitOptions(
        parts=parts,
        grouping="random",
        epochs=task.retrain,
        flip=True,
        crop_padding=padding,
        precision=task.precision,
        torch_device=task.torch_device,
    )


def _within(task: Task, macs: int, images: torch.Tensor, labels: torch.Tensor) -> Program:
    """Pruned by the smallest ratio, in steps of a hundredth, that is enough."""
    pruned = functools.cache(lambda percent: _torch_pruned(task.whole, percent / 100, images, labels))
    enough = bisect.bisect_left(range(10, 95), True, key=lambda percent: count_macs(pruned(percent)) <= macs)
    return pruned(range(10, 95)[enough])


def _torch_pruned(whole: Program, ratio: float, images: torch.Tensor, labels: torch.Tensor) -> Program:
    import torch_pruning as tp

    pixels = images.shape[-1]
    module = vit(pixels)
    module.load_state_dict(dict(whole.exported.state_dict))
    pruner = tp.pruner.BasePruner(
        module,
        images[:1],
        importance=tp.importance.GroupTaylorImportance(),
        global_pruning=False,
        pruning_ratio=ratio,
        num_heads={block.attn.qkv: block.attn.num_heads for block in module.blocks},  # type: ignore[union-attr]
        prune_num_heads=False,
        prune_head_dims=True,
        ignored_layers=[module.head],
    )
    for begin in range(0, len(images), 32):
        logits = module(images[begin : begin + 32])
        nn.functional.cross_entropy(logits, labels[begin : begin + 32]).backward()
    pruner.step()
    narrow_heads(module)
    module.zero_grad()
    return captured(module, pixels)


def task_of(options: argparse.Namespace, work: Path) -> Task:
    """The images, and the whole."""
    data = work / "data"
    if not data.exists():
        for part in ("train", "test"):
            with tarfile.open(options.shared / f"data/cifar10-{part}.tar.xz") as archive:
                archive.extractall(data, filter="data")
    model = start(options.shared, options.pixels)
    images, labels = read_labelled(model, data / "cifar10-train", count=options.train)
    test, truth = read_labelled(model, data / "cifar10-test", count=options.images)
    whole = fine_tuned(work / "whole.pt2", options, images, labels)
    # They lie in the order of their classes.
    chosen = np.sort(np.random.default_rng(0).permutation(len(images))[: options.learn])
    images, labels = images[chosen], labels[chosen]
    return Task(whole, images, labels, test, truth, options.retrain, options.precision, options.torch_device)


def below(task: Task, options: argparse.Namespace) -> str:
    """What the table is of."""
    return (
        f"\nThe whole: {task.top1(task.logits(task.whole)):.2f} % of {len(task.test)} test images, "
        f"{count_macs(task.whole) / 1e6:.0f} M MACs, {task.whole.parameter_count / 1e6:.2f} M parameters, "
        f"fine-tuned on {options.train} images at {options.pixels} pixels for {options.epochs} epochs; "
        f"parts, controls and Torch-Pruning's learn from {len(task.images)} of these for "
        f"{options.retrain} epochs, in {options.precision}."
    )


def rows_of(task: Task, counts: list[int], work: Path) -> list[Row]:
    """One for each N; each is kept when it is done."""
    rows = []
    for parts in counts:
        kept = work / f"row-{parts}.json"
        if not kept.exists():
            kept.write_text(json.dumps(asdict(row(task, parts, work / f"split-{parts}"))), encoding="utf-8")
        rows.append(_row(json.loads(kept.read_text(encoding="utf-8"))))
        print(rows[-1].markdown(), file=sys.stderr, flush=True)
    return rows


def written(measured: Sequence[Row], options: argparse.Namespace) -> list[Row]:
    """These rows and those that were measured before with the same settings, kept for the next time."""
    names = ("pixels", "train", "epochs", "learn", "retrain", "precision", "images")
    settings = {name: getattr(options, name) for name in names}
    before = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}
    rows = {one["parts"]: _row(one) for one in before.get("rows", ()) if before["settings"] == settings}
    rows |= {one.parts: one for one in measured}
    found = [rows[parts] for parts in sorted(rows)]
    text = json.dumps({"settings": settings, "rows": [asdict(one) for one in found]}, indent=1)
    MEASURED.parent.mkdir(exist_ok=True)
    MEASURED.write_text(text + "\n", encoding="utf-8")
    return found


def _row(values: Mapping[str, Any]) -> Row:
    found = Row(**values)
    return replace(found, lost=tuple(found.lost))


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shared", type=Path, default=ROOT.parent / "shared", help="where data and weights are"
    )
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--train", type=int, default=20000, help="images to fine-tune on")
    parser.add_argument("--epochs", type=int, default=4, help="of fine-tuning")
    parser.add_argument("--learn", type=int, default=10000, help="of these, images that parts learn from")
    parser.add_argument("--retrain", type=int, default=3, help="epochs after pruning")
    parser.add_argument("--parts", default="1,2,3,5,10")
    parser.add_argument("--images", type=int, default=5000, help="images to judge with, at most")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of training")
    parser.add_argument("--torch-device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--work", type=Path, help="keep everything here; a run that is repeated goes on from it"
    )
    parser.add_argument("--write", type=Path, help="document that has the table's markers")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        task = task_of(options, work)
        rows = rows_of(task, [int(count) for count in options.parts.split(",")], work)
        if options.write:
            rows = written(rows, options)
        table = "\n".join([HEADER, *(one.markdown() for one in rows), below(task, options)])
    print(table)
    if options.write:
        write_table(options.write, "classwise.py", table)


if __name__ == "__main__":
    main()
