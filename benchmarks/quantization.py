"""Accuracy, latency, size and cost of quantized artefacts, edgevit's beside its peers' in one run.

Usage: python benchmarks/quantization.py [--shared DIR] [--models vit_tiny,hybrid] [--peers NAME,...]
           [--calib N] [--images N] [--iterations N] [--write docs/quantization.md]

Two models with real weights: ViT-Tiny on ImageNet validation images, and MobileViT-xxs trained on CIFAR-10.
Every file is executed by its runtime (ONNX Runtime, LiteRT) on one thread, beside the float file that it
came from: `top-1` on the same images, `equal` the share of images that get the float file's class, latency
and size relative to it. Each tool is given the same calibration images, in a process of its own. The last
table takes one quantized Program to three formats, and counts where their classes agree.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.quantization_measure import HEADER, Row, measure  # noqa: E402
from benchmarks.quantization_peers import PEERS, Peer, Suffix, quantize  # noqa: E402
from benchmarks.tables import write_table  # noqa: E402
from edgevit.export.formats import FORMATS, ExportChoices  # noqa: E402
from edgevit.graph.capture import capture  # noqa: E402
from edgevit.graph.program import Array, Program  # noqa: E402
from edgevit.images import ImageReader, open_folder  # noqa: E402

FORMAT_OF: dict[Suffix, str] = {".onnx": "onnx", ".tflite": "tflite"}
# Images on which three formats are compared: Core ML's reference evaluator takes its time.
COMPARED = 200


@dataclass(frozen=True)
class Model:
    """A model, and the images it is calibrated and judged with."""

    program: Program
    calib: Array
    images: Array
    labels: tuple[int, ...]


def vit_tiny(shared: Path, folder: Path, calib: int, images: int) -> Model:  # noqa: ARG001 - as `hybrid`
    """timm's AugReg ViT-Tiny."""
    program = capture(
        "timm:vit_tiny_patch16_224",
        weights=shared / "weights/vit_tiny_patch16_224.safetensors",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        name="vit_tiny",
    )
    return _model(program, shared / "data/imagenet-calib", shared / "data/imagenet-val", calib, images)


def hybrid(shared: Path, folder: Path, calib: int, images: int) -> Model:
    """MobileViT-xxs for CIFAR-10 at 64 pixels."""
    for part in ("train", "test"):
        with tarfile.open(shared / f"data/cifar10-{part}.tar.xz") as archive:
            archive.extractall(folder, filter="data")
    program = capture(
        "timm:mobilevit_xxs",
        weights=shared / "weights/mobilevit_xxs_cifar10_64px.safetensors",
        num_classes=10,
        input_size=(64, 64),
        resize=(64, 64),
        interpolation="bicubic",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        name="hybrid",
    )
    return _model(program, folder / "cifar10-train", folder / "cifar10-test", calib, images)


MODELS = {"vit_tiny": vit_tiny, "hybrid": hybrid}


def _model(program: Program, calib: Path, images: Path, calib_count: int, count: int) -> Model:
    (calibration, _), (judged, labels) = (
        _read(program, path, n) for path, n in ((calib, calib_count), (images, count))
    )
    return Model(program, calibration, judged, labels)


def _read(program: Program, path: Path, count: int) -> tuple[Array, tuple[int, ...]]:
    folder = open_folder(path, num_classes=program.num_classes, class_names=program.card.labels)
    folder = folder.sample(min(count, len(folder)), 0)
    return ImageReader(folder, program.card.preprocessing).read_all(), folder.require_labels()


def edgevit_quantized(
    source: Path, images: Array, output: Path, *, precision: str, placement: str | None, iterations: int
) -> None:
    """edgevit's own row: `edgevit compress` and `edgevit export` in one."""
    import torch

    from edgevit.profiling.quantized import measure_placement
    from edgevit.quant.precision import bit_widths
    from edgevit.quant.quantizing import quantize as quantize_program

    torch.set_num_threads(1)
    program, to = Program.load(source), FORMAT_OF[output.suffix]  # type: ignore[index]
    levels = None
    if placement == "measured":
        levels = measure_placement(program, to=to, bits=bit_widths(precision)).levels
        placement = None
    found = quantize_program(
        program, images, precision=precision, placement=placement, levels=levels, iterations=iterations
    )
    found.program.save(output.with_suffix(".pt2"), force=True)
    FORMATS[to].export(found.program, output, ExportChoices())


def own(iterations: int) -> tuple[Peer, ...]:
    """edgevit's rows."""
    rows: list[Peer] = []
    for precision, placement, writes in (
        ("w8a8", "measured", ".onnx"),
        ("w8a8", "layers", ".tflite"),
        ("w6a6", None, ".onnx"),
        ("w4a8", "inputs", ".onnx"),
    ):
        write = functools.partial(
            edgevit_quantized, precision=precision, placement=placement, iterations=iterations
        )
        name = f"edgevit {precision}, {placement or 'inputs'}"
        rows.append(Peer(name, ".pt2", writes, ("torch",), write))  # type: ignore[arg-type]
    return tuple(rows)


def bench(name: str, model: Model, peers: Sequence[Peer], folder: Path) -> tuple[list[str], str]:
    """The model's lines of the table, and of the agreement of formats."""
    folder.mkdir()
    floats: dict[Suffix, Path] = {".pt2": folder / "float.pt2"}
    model.program.save(floats[".pt2"])
    for suffix, to in FORMAT_OF.items():
        floats[suffix] = folder / f"float{suffix}"
        FORMATS[to].export(model.program, floats[suffix], ExportChoices())
    made = []
    for peer in peers:
        made.append(quantize(peer, floats, model.calib, folder))
        print(f"{name}: {peer.name}: {made[-1].failure or 'done'}", file=sys.stderr, flush=True)
    rows: list[Row] = []
    for suffix in FORMAT_OF:
        mine = [item for item, peer in zip(made, peers, strict=True) if peer.writes == suffix]
        rows += measure(mine, floats[suffix], model.images, model.labels)
    by_name = {row.candidate.name: row for row in rows}
    return [by_name[peer.name].markdown(name) for peer in peers], agreement(name, model, folder)


def agreement(name: str, model: Model, folder: Path) -> str:
    """One quantized Program in three formats: on how many images they give one class."""
    path = next(folder.glob("edgevit-w8a8-layers.pt2"), None)
    if path is None:
        return f"| {name} | not made | | |"
    program, images = Program.load(path), model.images[:COMPARED]
    classes = {"torch": program.run(images)[0].argmax(1)}
    for to, format_ in FORMATS.items():
        file = folder / f"agreement-{format_.file}"
        format_.export(program, file, ExportChoices())
        classes[to] = np.concatenate(
            [format_.open(file).run(images[i : i + 1])[0] for i in range(len(images))]
        ).argmax(1)
    all_equal = np.all([found == classes["torch"] for found in classes.values()], axis=0)
    cells = [f"{100 * np.mean(classes[to] == classes['torch']):.1f}" for to in FORMATS]
    return f"| {name} | {' | '.join(cells)} | {100 * np.mean(all_equal):.1f} |"


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shared", type=Path, default=ROOT.parent / "shared", help="where data and weights are"
    )
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--peers", help="names, with semicolons between; all unless given, none for ''")
    parser.add_argument("--calib", type=int, default=256, help="calibration images")
    parser.add_argument("--images", type=int, default=5000, help="images to judge with, at most")
    parser.add_argument("--iterations", type=int, default=200, help="of reconstruction, a block")
    parser.add_argument("--write", type=Path, help="document that has the table's markers")
    options = parser.parse_args()
    wanted = PEERS if options.peers is None else {n: PEERS[n] for n in options.peers.split(";") if n}
    lines, agreed = [], []
    for name in options.models.split(","):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            model = MODELS[name](options.shared, folder, options.calib, options.images)
            rows, line = bench(name, model, (*own(options.iterations), *wanted.values()), folder / "files")
        lines += rows
        agreed.append(line)
    head = "| model | onnx | tflite | coreml | all three and torch |\n|---|---|---|---|---|"
    table = "\n".join(
        [
            HEADER,
            *lines,
            "",
            "One W8A8 Program in three formats: percent of images with torch's class.",
            "",
            head,
            *agreed,
        ]
    )
    print(table)
    if options.write:
        write_table(options.write, "quantization.py", table)


if __name__ == "__main__":
    main()
