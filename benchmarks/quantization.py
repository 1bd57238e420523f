"""Accuracy, latency, size and cost of quantized artefacts, edgevit's beside its peers' in one run.

Usage: python benchmarks/quantization.py [--shared DIR] [--models vit_tiny,hybrid,hybrid_256]
           [--peers "NAME;..."] [--calib N] [--images N] [--write docs/quantization.md]

Two models with real weights: ViT-Tiny on ImageNet images, and MobileViT-xxs trained on CIFAR-10,
at the 64 pixels it was trained for and, for latency's sake, at the 256 that MobileViT is made for.
Every file is executed by its runtime (ONNX Runtime, LiteRT) on one thread, beside the float file that it
came from: top-1 on the same images, with one standard deviation of how far chance alone moves it from the
float file's, the share of images that get the float file's class, KL divergence from its probabilities,
latency and size relative to it. Each tool is given the same calibration images, in a process of its own.
Each model has a table of its own, written when it is done.
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
from edgevit.images import ImageFolder, ImageReader, open_folder  # noqa: E402

FORMAT_OF: dict[Suffix, str] = {".onnx": "onnx", ".tflite": "tflite"}


@dataclass(frozen=True)
class Model:
    """A model, and the images it is calibrated and judged with.

    Attributes:
        program: the float model.
        iterations: of reconstruction, for each block: what takes minutes and not hours.
        precisions: of the rows beside W8A8.
        calib: images to calibrate with, prepared.
        images: images to judge with, prepared.
        labels: their classes.
    """

    program: Program
    iterations: int
    precisions: tuple[str, ...]
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
    known = _open(program, shared / "data/imagenet-calib")
    calibration = known.sample(calib, 0)
    # The validation images are few: two tools an image apart differ by 0.15 points. So judge with what
    # nobody was calibrated on as well.
    validation = _open(program, shared / "data/imagenet-val")
    judged = [_read(program, folder, images) for folder in (validation, known.without(calibration))]
    pixels, labels = zip(*judged, strict=True)
    return Model(
        program,
        20,
        ("w6a6",),
        _read(program, calibration, calib)[0],
        np.concatenate(pixels)[:images],
        sum(labels, ())[:images],
    )


def hybrid(shared: Path, folder: Path, calib: int, images: int) -> Model:
    """MobileViT-xxs for CIFAR-10 at 64 pixels."""
    program = _hybrid(shared, 64)
    return Model(program, 200, ("w6a6", "w4a8"), *_cifar10(program, shared, folder, calib, images))


def hybrid_256(shared: Path, folder: Path, calib: int, images: int) -> Model:
    """The same at 256 pixels, for which it was not trained; on fewer images, each 16 times as much work."""
    program = _hybrid(shared, 256)
    return Model(program, 200, (), *_cifar10(program, shared, folder, calib, min(images, 1000)))


def _cifar10(
    program: Program, shared: Path, folder: Path, calib: int, images: int
) -> tuple[Array, Array, tuple[int, ...]]:
    """Images to calibrate with, images to judge with, and the classes of these."""
    for part in ("train", "test"):
        with tarfile.open(shared / f"data/cifar10-{part}.tar.xz") as archive:
            archive.extractall(folder, filter="data")
    calibration, _ = _read(program, _open(program, folder / "cifar10-train"), calib)
    return calibration, *_read(program, _open(program, folder / "cifar10-test"), images)


def _hybrid(shared: Path, pixels: int) -> Program:
    return capture(
        "timm:mobilevit_xxs",
        weights=shared / "weights/mobilevit_xxs_cifar10_64px.safetensors",
        num_classes=10,
        input_size=(pixels, pixels),
        resize=(pixels, pixels),
        interpolation="bicubic",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        name="hybrid",
    )


MODELS = {"vit_tiny": vit_tiny, "hybrid": hybrid, "hybrid_256": hybrid_256}


def _open(program: Program, path: Path) -> ImageFolder:
    return open_folder(path, num_classes=program.num_classes, class_names=program.card.labels)


def _read(program: Program, folder: ImageFolder, count: int) -> tuple[Array, tuple[int, ...]]:
    folder = folder.sample(count, 0)
    return ImageReader(folder, program.card.preprocessing).read_all(), folder.require_labels()


def edgevit_quantized(
    source: Path, images: Array, output: Path, *, precision: str, placement: str | None, iterations: int
) -> None:
    """edgevit's own row: `edgevit compress` and `edgevit export` in one."""
    import torch

    from edgevit.profiling.quantized import layer_gains, measure_placement
    from edgevit.quant.precision import bit_widths
    from edgevit.quant.quantizing import quantize as quantize_program

    torch.set_num_threads(1)
    program, to = Program.load(source), FORMAT_OF[output.suffix]  # type: ignore[index]
    levels = gains = None
    if placement == "measured":
        measured = measure_placement(program, to=to, bits=bit_widths(precision))
        levels, gains, placement = measured.levels, layer_gains(program, measured), None
    found = quantize_program(
        program,
        images,
        precision=precision,
        placement=placement,
        levels=levels,
        gains=gains,
        iterations=iterations,
    )
    found.program.save(output.with_suffix(".pt2"), force=True)
    FORMATS[to].export(found.program, output, ExportChoices())


def own(model: Model) -> tuple[Peer, ...]:
    """edgevit's rows."""
    rows: list[Peer] = []
    for precision, placement, writes in (
        ("w8a8", "measured", ".onnx"),
        ("w8a8", "measured", ".tflite"),
        *((precision, "inputs", ".onnx") for precision in model.precisions),
    ):
        write = functools.partial(
            edgevit_quantized, precision=precision, placement=placement, iterations=model.iterations
        )
        name = f"edgevit {precision}, {placement}"
        rows.append(Peer(name, ".pt2", writes, ("torch",), write))  # type: ignore[arg-type]
    return tuple(rows)


def bench(name: str, model: Model, peers: Sequence[Peer], folder: Path) -> str:
    """The model's table."""
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
    rows: dict[int, Row] = {}
    for suffix in FORMAT_OF:
        places = [place for place, peer in enumerate(peers) if peer.writes == suffix]
        measured = measure([made[place] for place in places], floats[suffix], model.images, model.labels)
        rows |= dict(zip(places, measured, strict=True))
    return "\n".join([HEADER, *(rows[place].markdown(name) for place in sorted(rows))])


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
    parser.add_argument("--write", type=Path, help="document that has the tables' markers")
    options = parser.parse_args()
    wanted = PEERS if options.peers is None else {n: PEERS[n] for n in options.peers.split(";") if n}
    for name in options.models.split(","):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            model = MODELS[name](options.shared, folder, options.calib, options.images)
            table = bench(name, model, (*own(model), *wanted.values()), folder / "files")
        print(table, flush=True)
        if options.write:
            write_table(options.write, f"quantization.py --models {name}", table)


if __name__ == "__main__":
    main()
