"""Accuracy of pruned models that nothing was trained for, edgevit's beside Torch-Pruning's in one run.

Usage: python benchmarks/pruning.py [--shared DIR] [--models vit_tiny,hybrid] [--calib N] [--images N]
           [--write docs/pruning.md]
       python -m pip install torch-pruning==1.6.1     (the peer)

Two models with real weights: ViT-Tiny on ImageNet validation images, and MobileViT-xxs trained on CIFAR-10.
Each tool sees the same calibration images, without labels, and none trains. Either half of every MLP and of
every head's width goes, or a share of the multiply-accumulates may stay and the tool chooses what does.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.quantization import Model, hybrid, vit_tiny  # noqa: E402
from benchmarks.tables import write_table  # noqa: E402
from edgevit.graph.costs import macs_by_node  # noqa: E402
from edgevit.graph.program import Array  # noqa: E402
from edgevit.graph.torchvision_shim import make_torchvision_importable  # noqa: E402
from edgevit.pruning.prune import Pruner  # noqa: E402

HEADER = (
    "| model | goal | method | top-1 % | float top-1 % | same prediction % | MACs left % "
    "| parameters left % | s |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
HALF = "half of MLP and attention width"


@dataclass(frozen=True)
class Row:
    """One pruned model.

    Attributes:
        goal: what was asked for.
        method: of which tool.
        logits: (images, classes), its own.
        macs: multiply-accumulates for one image that are left.
        parameters: that are left.
        seconds: taken.
    """

    goal: str
    method: str
    logits: Array
    macs: float
    parameters: float
    seconds: float


def own_widths(pruner: Pruner, images: Array, *, compensation: bool) -> Row:
    """Half of every axis but the residual stream."""
    started = time.perf_counter()
    widths = {axis: axis.size // 2 for axis in pruner.analysis.curves}
    result = pruner.cut(widths, compensation=compensation)
    return _own(HALF, result, images, started, compensation=compensation)


def own_share(pruner: Pruner, images: Array, keep: float, *, compensation: bool) -> Row:
    """A share of the multiply-accumulates."""
    started = time.perf_counter()
    result = pruner.cut(pruner.widths(keep), compensation=compensation)
    return _own(f"{100 * keep:.0f} % of MACs", result, images, started, compensation=compensation)


def _own(goal: str, result: Any, images: Array, started: float, *, compensation: bool) -> Row:
    seconds = time.perf_counter() - started
    name = "edgevit" if compensation else "edgevit, layers not fitted"
    return Row(goal, name, result.program.run(images)[0], result.macs[1], result.parameters[1], seconds)


def peer(
    module: nn.Module,
    model: Model,
    *,
    importance: str,
    goal: str,
    prepare: Callable[[nn.Module], dict[str, Any]],
    finish: Callable[[nn.Module], None],
) -> Row:
    """Torch-Pruning, by one of its importances."""
    import torch_pruning as tp

    started = time.perf_counter()
    example = torch.from_numpy(model.calib[:1])
    found = {
        "magnitude": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "Taylor": tp.importance.GroupTaylorImportance,
    }[importance]()
    pruner = tp.pruner.BasePruner(module, example, importance=found, global_pruning=False, **prepare(module))
    if importance == "Taylor":
        for start in range(0, len(model.calib), 32):
            logits = module(torch.from_numpy(model.calib[start : start + 32]))
            # The classes that the model itself predicts: nobody is given labels.
            nn.functional.cross_entropy(logits, logits.argmax(-1).detach()).backward()
    pruner.step()
    finish(module)
    module.zero_grad()
    seconds = time.perf_counter() - started
    macs, _ = tp.utils.count_ops_and_params(module, example)
    with torch.no_grad():
        parts = [module(torch.from_numpy(model.images[i : i + 50])) for i in range(0, len(model.images), 50)]
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return Row(goal, f"Torch-Pruning, {importance}", torch.cat(parts).numpy(), macs, parameters, seconds)


def _timm() -> Any:
    make_torchvision_importable()
    import timm

    return timm


def timm_vit(shared: Path) -> nn.Module:
    from safetensors.torch import load_file

    module = _timm().create_model("vit_tiny_patch16_224")
    module.load_state_dict(load_file(shared / "weights/vit_tiny_patch16_224.safetensors"))
    for block in module.blocks:
        # The other path takes its scale from the width that it finds, not from the one it was trained with.
        block.attn.fused_attn = False
    return module.eval()


def half_of_vit(module: nn.Module) -> dict[str, Any]:
    """Half of what each MLP and each head is wide."""
    halves = {layer: 0.5 for block in module.blocks for layer in (block.mlp.fc1, block.attn.qkv)}  # type: ignore[union-attr]
    return {
        "pruning_ratio": 0.0,
        "pruning_ratio_dict": halves,
        "num_heads": {block.attn.qkv: block.attn.num_heads for block in module.blocks},  # type: ignore[union-attr]
        "prune_num_heads": False,
        "prune_head_dims": True,
        "ignored_layers": [module.head],
    }


def narrow_heads(module: nn.Module) -> None:
    """What timm's attention remembers of its widths."""
    for block in module.blocks:  # type: ignore[union-attr]
        attention = block.attn
        attention.head_dim = attention.qkv.out_features // (3 * attention.num_heads)
        attention.attn_dim = attention.head_dim * attention.num_heads


def vit_rows(shared: Path, model: Model) -> list[Row]:
    pruner = Pruner(model.program, model.calib)
    rows = [
        own_widths(pruner, model.images, compensation=True),
        own_widths(pruner, model.images, compensation=False),
    ]
    rows += [
        peer(
            timm_vit(shared),
            model,
            importance=importance,
            goal=HALF,
            prepare=half_of_vit,
            finish=narrow_heads,
        )
        for importance in ("magnitude", "Taylor")
    ]
    return rows + [own_share(pruner, model.images, keep, compensation=True) for keep in (0.8, 0.7, 0.6)]


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shared", type=Path, default=ROOT.parent / "shared", help="where data and weights are"
    )
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--calib", type=int, default=256, help="calibration images")
    parser.add_argument("--images", type=int, default=5000, help="images to judge with, at most")
    parser.add_argument("--write", type=Path, help="document that has the tables' markers")
    options = parser.parse_args()
    for name in options.models.split(","):
        with tempfile.TemporaryDirectory() as temporary:
            make, rows_of = MODELS[name]
            model = make(options.shared, Path(temporary), options.calib, options.images)
            table = "\n".join([HEADER, *_markdown(name, model, rows_of(options.shared, model))])
        print(table, flush=True)
        if options.write:
            write_table(options.write, f"pruning.py --models {name}", table)


def _markdown(name: str, model: Model, rows: list[Row]) -> list[str]:
    expected, labels = model.program.run(model.images)[0].argmax(1), np.asarray(model.labels)
    macs, parameters = sum(macs_by_node(model.program).values()), model.program.parameter_count
    return [
        f"| {name} | {row.goal} | {row.method} | {100 * (row.logits.argmax(1) == labels).mean():.2f} "
        f"| {100 * (expected == labels).mean():.2f} | {100 * (row.logits.argmax(1) == expected).mean():.1f} "
        f"| {100 * row.macs / macs:.0f} | {100 * row.parameters / parameters:.0f} | {row.seconds:.0f} |"
        for row in rows
    ]


def hybrid_rows(shared: Path, model: Model) -> list[Row]:
    pruner = Pruner(
        model.program, model.calib, roles=("residual", "query-key", "value", "hidden", "channels")
    )
    rows = []
    for keep, ratio in ((0.5, 0.26), (0.3, 0.44)):
        rows += [own_share(pruner, model.images, keep, compensation=fitted) for fitted in (True, False)]
        rows += [
            peer(
                timm_hybrid(shared),
                model,
                importance=importance,
                goal=f"{100 * keep:.0f} % of MACs",
                prepare=lambda module, ratio=ratio: {  # type: ignore[misc]
                    "pruning_ratio": ratio,
                    "num_heads": {
                        layer.qkv: layer.num_heads for layer in module.modules() if hasattr(layer, "qkv")
                    },
                    "ignored_layers": [module.head.fc],
                    "round_to": 4,
                },
                finish=narrow_all_heads,
            )
            for importance in ("magnitude", "Taylor")
        ]
    return rows


def timm_hybrid(shared: Path) -> nn.Module:
    from safetensors.torch import load_file

    module = _timm().create_model("mobilevit_xxs", num_classes=10)
    module.load_state_dict(load_file(shared / "weights/mobilevit_xxs_cifar10_64px.safetensors"))
    for layer in module.modules():
        if hasattr(layer, "fused_attn"):
            layer.fused_attn = False
    return module.eval()


def narrow_all_heads(module: nn.Module) -> None:
    for layer in module.modules():
        if hasattr(layer, "qkv"):
            layer.head_dim = layer.qkv.out_features // (3 * layer.num_heads)
            layer.attn_dim = layer.head_dim * layer.num_heads


MODELS = {"vit_tiny": (vit_tiny, vit_rows), "hybrid": (hybrid, hybrid_rows)}


if __name__ == "__main__":
    main()
