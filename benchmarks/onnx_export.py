"""Capture and ONNX export of ten models: parity, size and time, beside torch's exporter alone.

Usage: python benchmarks/onnx_export.py [--models NAME,...] [--write docs/onnx.md]

Weights are random, with every branch made to matter (tests/zoo.py). The peer is
`torch.onnx.export(model, dynamo=True)` on the module, what a user without edgevit would call; the last
column is edgevit's capture and export together over it, medians of alternating runs. `--write` replaces
the table between the markers of a document.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from edgevit.export.onnx import OPSET, OnnxArtefact, to_onnx  # noqa: E402
from edgevit.export.verify import TOLERANCES, compare  # noqa: E402
from edgevit.graph.capture import capture  # noqa: E402
from edgevit.graph.torchvision_shim import make_torchvision_importable  # noqa: E402
from tests.zoo import example, rerandomise, settle  # noqa: E402

make_torchvision_importable()
import timm  # noqa: E402

MODELS = (
    "deit_tiny_patch16_224",
    "mobilevit_xxs",
    "mobilevitv2_050",
    "efficientformer_l1",
    "efficientformerv2_s0",
    "levit_128s",
    "edgenext_xx_small",
    "fastvit_t8",
    "tiny_vit_5m_224",
    "swin_tiny_patch4_window7_224",
)
BEGIN, END = "<!-- table: benchmarks/onnx_export.py -->", "<!-- end of table -->"
HEADER = (
    "| model | ATen nodes | ONNX nodes | MB | relative error | capture s | export s "
    "| time over torch's exporter |\n"
    "|---|---|---|---|---|---|---|---|"
)


def peer_seconds(model: torch.nn.Module, example: torch.Tensor, path: Path) -> float:
    """torch's own exporter, as its documentation shows it."""
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(
            model, (example,), path, dynamo=True, opset_version=OPSET, external_data=False, verbose=False
        )
    return time.perf_counter() - started


def measure(name: str, folder: Path, runs: int) -> str:
    """One row of the table."""
    import onnx

    model = timm.create_model(name)
    config = timm.data.resolve_model_data_config(model)
    settle(rerandomise(model), example(config["input_size"], 8))
    captures, exports, peers = [], [], []
    for _ in range(runs):
        started = time.perf_counter()
        program = capture(model, input_size=config["input_size"][1:], mean=config["mean"], std=config["std"])
        captures.append(time.perf_counter() - started)
        started = time.perf_counter()
        info = to_onnx(program, folder / "ours.onnx")
        exports.append(time.perf_counter() - started)
        peers.append(peer_seconds(model, torch.zeros(1, *config["input_size"]), folder / "peer.onnx"))
    images = torch.randn(8, *config["input_size"], generator=torch.Generator().manual_seed(0)).numpy()
    artefact = OnnxArtefact.open(folder / "ours.onnx")
    (parity,) = compare(
        artefact, program, images, described="noise", tolerance=TOLERANCES["fp32"], name=name
    ).outputs
    nodes = len(onnx.load(folder / "ours.onnx").graph.node)
    calls = sum(node.op == "call_function" for node in program.graph.nodes)
    ratio = statistics.median(
        (mine + export) / peer for mine, export, peer in zip(captures, exports, peers, strict=True)
    )
    return (
        f"| {name} | {calls} | {nodes} | {info.bytes / 1e6:.1f} | {parity.rel:.0e} | "
        f"{statistics.median(captures):.1f} | {statistics.median(exports):.1f} | {ratio:.2f}x |"
    )


def write_table(document: Path, table: str) -> None:
    """Replace what stands between the markers."""
    text = document.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    document.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    rows = [HEADER]
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models.split(","):
            rows.append(measure(name, Path(folder), options.runs))
            print(rows[-1], flush=True)
    if options.write:
        write_table(options.write, "\n".join(rows))


if __name__ == "__main__":
    main()
