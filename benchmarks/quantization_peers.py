"""Other tools' post-training quantization, each called as its own documentation shows.

A peer is a function of a float file that edgevit exported (or the Program itself), prepared calibration
images and the path of the file to write. `quantize` runs one in a process of its own, which is asked for its
processor time and peak memory, and in which a peer may crash, print and change global state as it likes.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from benchmarks.quantization_measure import Candidate, Cost
from edgevit.graph.torchvision_shim import make_torchvision_importable
from edgevit.profiling.probe.conditions import peak_memory_mb

Array = npt.NDArray[np.float32]
Suffix = Literal[".pt2", ".onnx", ".tflite"]
Write = Callable[[Path, Array, Path], None]

# nncf reports every call to its makers unless this is set when it is imported.
os.environ.setdefault("NNCF_CI", "1")

# What edgevit's exporters call the input of a file, and the converter the one signature of a TFLite file.
INPUT = "image"
SIGNATURE = "serving_default"


@dataclass(frozen=True)
class Peer:
    """A tool with its settings.

    Attributes:
        name: of the tool and its settings, for the table.
        takes: which of the float files it starts from.
        writes: the format it writes.
        libraries: what it imports; imported before the clock starts.
        write: (float file, calibration images (n, c, h, w), file to write).
    """

    name: str
    takes: Suffix
    writes: Suffix
    libraries: tuple[str, ...]
    write: Write


def silence() -> None:
    """Send what this process prints, its C++ parts too, nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(nowhere, stream.fileno())


def one_by_one(images: Array) -> Iterator[Array]:
    """Images as batches of one: the files take no other."""
    return (image[None] for image in images)


def ort_prepared(source: Path, output: Path) -> Path:
    """The shape inference and fusion that ONNX Runtime asks for ahead of either quantizer."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = output.with_suffix(".prepared.onnx")
    quant_pre_process(source, prepared)
    return prepared


def ort_static(
    source: Path,
    images: Array,
    output: Path,
    *,
    operators: tuple[str, ...] | None = None,
    unsigned: bool = False,
) -> None:
    """ONNX Runtime, static QDQ by minimum and maximum, weights per channel.

    Args:
        source: the float ONNX file.
        images: calibration images.
        output: the ``.onnx`` file to write.
        operators: types to quantize; None quantizes all that it can.
        unsigned: uint8 activations (U8S8), which its documentation recommends on x86; else int8 (S8S8).
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    batches = one_by_one(images)

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, Array] | None:
            image = next(batches, None)
            return None if image is None else {INPUT: image}

    prepared = ort_prepared(source, output)
    quantize_static(
        prepared,
        output,
        Reader(),
        op_types_to_quantize=None if operators is None else list(operators),
        per_channel=True,
        activation_type=QuantType.QUInt8 if unsigned else QuantType.QInt8,
        weight_type=QuantType.QInt8,
    )
    prepared.unlink()


def ort_dynamic(source: Path, images: Array, output: Path) -> None:  # noqa: ARG001 - a peer's arguments
    """ONNX Runtime, weights of MatMul and Gemm in int8, activations quantized as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    prepared = ort_prepared(source, output)
    quantize_dynamic(prepared, output, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
    prepared.unlink()


def nncf_transformer(source: Path, images: Array, output: Path) -> None:
    """NNCF on the ONNX file, for transformers: SmoothQuant, min-max, fast bias correction."""
    import nncf
    import onnx

    dataset = nncf.Dataset(list(one_by_one(images)), lambda image: {INPUT: image})
    quantized = nncf.quantize(
        onnx.load(source), dataset, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(images)
    )
    onnx.save(quantized, output)


def ai_edge(source: Path, images: Array, output: Path, *, recipe: str) -> None:
    """ai-edge-quantizer with one of its recipes, calibrated where the recipe needs it."""
    from ai_edge_quantizer import recipe as recipes
    from ai_edge_quantizer.quantizer import Quantizer

    tool = Quantizer(str(source), getattr(recipes, recipe)())
    statistics = None
    if tool.need_calibration:
        batches = [{INPUT: image} for image in one_by_one(images)]
        statistics = tool.calibrate({SIGNATURE: batches}, num_threads=1)
    tool.quantize(statistics, enable_progress_report=False).export_model(str(output), overwrite=True)


def pt2e_static(source: Path, images: Array, output: Path) -> None:
    """torchao's PT2E with litert-torch's quantizer: static, symmetric weights per channel.

    The graph it is given is the one that edgevit gives the converter for the float file, so that the two
    differ in quantization alone.
    """
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    from edgevit.graph.program import Program
    from edgevit.graph.rewrites import prepare_for_export
    from edgevit.graph.rewrites.group_norm import spell_out_group_norm

    make_torchvision_importable()
    import litert_torch
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig

    program = spell_out_group_norm(prepare_for_export(Program.load(source).with_batch(1)))
    static = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False)
    quantizer = PT2EQuantizer().set_global(static)
    observed = prepare_pt2e(program.exported.module(check_guards=False), quantizer)
    for image in one_by_one(images):
        observed(torch.from_numpy(image))
    quantized = convert_pt2e(observed, fold_quantize=False)
    example = (torch.from_numpy(images[:1]),)
    converted = litert_torch.convert(quantized, example, quant_config=QuantConfig(pt2e_quantizer=quantizer))
    converted.export(str(output))


ORT = ("onnxruntime.quantization",)
NNCF = ("nncf", "onnx")
AI_EDGE = ("ai_edge_quantizer.quantizer",)
PT2E = ("torchao.quantization.pt2e.quantize_pt2e", "litert_torch")

FEW = partial(ort_static, operators=("MatMul", "Gemm", "Conv"), unsigned=True)
DYNAMIC = partial(ai_edge, recipe="dynamic_wi8_afp32")
STATIC = partial(ai_edge, recipe="static_wi8_ai8")

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("ONNX Runtime static", ".onnx", ".onnx", ORT, ort_static),
        Peer("ONNX Runtime static, MatMul Gemm Conv", ".onnx", ".onnx", ORT, FEW),
        Peer("ONNX Runtime dynamic, MatMul Gemm", ".onnx", ".onnx", ORT, ort_dynamic),
        Peer("NNCF transformer", ".onnx", ".onnx", NNCF, nncf_transformer),
        Peer("ai-edge-quantizer dynamic_wi8_afp32", ".tflite", ".tflite", AI_EDGE, DYNAMIC),
        Peer("ai-edge-quantizer static_wi8_ai8", ".tflite", ".tflite", AI_EDGE, STATIC),
        Peer("torchao PT2E static", ".pt2", ".tflite", PT2E, pt2e_static),
    )
}


def quantize(peer: Peer, floats: Mapping[Suffix, Path], images: Array, folder: Path) -> Candidate:
    """Run a peer in a process of its own.

    Args:
        peer: of `PEERS`, or any with the same shape: its function must be importable by name.
        floats: the float files by suffix.
        images: (n, channels, height, width) float32 calibration images, prepared.
        folder: where its file is written, under its name.

    Returns:
        The file and what it took; a peer that fails is a result, not an error.
    """
    output = folder / f"{peer.name.replace(' ', '-').replace(',', '')}{peer.writes}"
    # Spawned, not forked: a fork starts with the parent's memory.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as apart:
        try:
            cost = apart.submit(measured, peer, floats[peer.takes], images, output).result()
        except Exception as error:  # noqa: BLE001 - what the peer raises is reported
            return Candidate(peer.name, None, failure=f"{type(error).__name__}: {error}".splitlines()[0])
    return Candidate(peer.name, output, cost)


def measured(peer: Peer, source: Path, images: Array, output: Path) -> Cost:
    """Run a peer in this process, its libraries imported before the clock starts, and say what it took."""
    silence()
    make_torchvision_importable()
    for library in peer.libraries:
        importlib.import_module(library)
    started = time.process_time()
    peer.write(source, images, output)
    return Cost(time.process_time() - started, peak_memory_mb())
