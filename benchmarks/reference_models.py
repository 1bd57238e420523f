"""Write the models by which `edgevit profile --suite` measures: the ten of the zoo, without weights.

Usage: python benchmarks/reference_models.py [--models NAME,...] [--output edgevit/prediction/reference]

Each model becomes four artefacts, as edgevit exports them: ONNX and TFLite, in float32 and with every layer
in eight bits. How long they take does not hang on their values, so each constant becomes its mean: what is
left compresses to some kilobytes, and a machine is measured without torch, timm or a converter. One more is
of every kind of operator at several sizes (`benchmarks/assorted.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import lzma
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.assorted import Assorted  # noqa: E402
from edgevit.errors import EdgevitError  # noqa: E402
from edgevit.export.formats import FORMATS, ExportChoices  # noqa: E402
from edgevit.graph.capture import capture  # noqa: E402
from edgevit.graph.program import Program  # noqa: E402
from edgevit.graph.rewrites import prepare_for_export  # noqa: E402
from edgevit.prediction.reference import ASSORTED  # noqa: E402
from edgevit.profiling.quantized import with_levels  # noqa: E402
from edgevit.quant.levels import Level, with_moves  # noqa: E402
from edgevit.quant.operators import is_layer  # noqa: E402
from edgevit.quant.precision import bit_widths  # noqa: E402

# Fewer values are left as they are: sizes, axes, scalars.
_FEW = 16


def in_integers(program: Program) -> Program:
    """Every layer in eight bits, with made-up ranges."""
    prepared = prepare_for_export(program)
    layers = {node.name: Level.INTEGER for node in prepared.graph.nodes if is_layer(node)}
    return with_levels(prepared, with_moves(prepared.graph, layers), bit_widths("w8a8"))


def flat(values: np.ndarray[Any, Any], number: int) -> np.ndarray[Any, Any]:
    """The mean in place of all values; matrices a little different each, for equal ones would be merged."""
    if values.min() == values.max():
        # Zero points: a convolution whose weights have another than 0 is no convolution of integers.
        return values
    if np.issubdtype(values.dtype, np.integer):
        return np.full_like(values, number % 100)
    # The scale of a bias stays the product of two other scales, without which nothing is fused.
    step = 1e-5 * (number % 1000) if values.ndim > 1 else 0.0
    return np.full_like(values, values.mean(dtype=np.float64) + step)


def flat_onnx(content: bytes) -> bytes:
    """An ONNX file whose constants are their means."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(content)
    # It is another file than the one that was sealed.
    model.doc_string = ""
    del model.metadata_props[:]
    for number, tensor in enumerate(model.graph.initializer):
        values = numpy_helper.to_array(tensor)
        if values.size > _FEW and values.dtype != np.int64:
            tensor.CopyFrom(numpy_helper.from_array(flat(values, number), tensor.name))
    return model.SerializeToString()


def flat_tflite(content: bytes) -> bytes:
    """Likewise a TFLite file; integers' scales as well."""
    from edgevit.export.tflite.model import constant, parse, serialise

    model = parse(content)
    model.metadata, model.metadataBuffer, model.signatureDefs = [], [], []
    for number, tensor in enumerate(model.subgraphs[0].tensors):
        values, grid = constant(model, tensor), tensor.quantization
        quantized = grid is not None and grid.scale is not None and len(grid.scale) > 0
        if quantized:
            grid.scale = np.full(len(grid.scale), np.mean(grid.scale), dtype=np.float32)
        if values is not None and values.size > _FEW and (quantized or values.dtype.kind == "f"):
            data = flat(values, number).tobytes()
            model.buffers[tensor.buffer].data = np.frombuffer(data, dtype=np.uint8)
    return serialise(model)


FLAT = {"onnx": flat_onnx, "tflite": flat_tflite}


def program_named(name: str) -> Program:
    """A model of the zoo, or the assortment."""
    if name != ASSORTED:
        from tests.conformance import program_of

        return program_of(name)
    torch.manual_seed(0)
    return capture(Assorted().eval(), input_size=(112, 112), mean=(0.5,) * 3, std=(0.29,) * 3, name=name)


def write(name: str, output: Path) -> None:
    """All four artefacts of a model."""
    program = program_named(name)
    programs = {"fp32": program, "int8": in_integers(program)}
    with tempfile.TemporaryDirectory() as folder:
        for format_, flatten in FLAT.items():
            for precision, made in programs.items():
                path = Path(folder) / precision / FORMATS[format_].file
                path.parent.mkdir(exist_ok=True)
                # Made-up ranges may leave a constant that the exporter misses: values do not count here.
                with contextlib.suppress(EdgevitError):
                    FORMATS[format_].export(made, path, ExportChoices())
                written = output / f"{name}.{precision}{path.suffix}.xz"
                written.write_bytes(lzma.compress(flatten(path.read_bytes())))
                print(written.name, written.stat().st_size, flush=True)


def main() -> None:
    """Export, flatten and write."""
    from tests.zoo import TIMM

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join([*TIMM, ASSORTED]))
    parser.add_argument("--output", type=Path, default=ROOT / "edgevit" / "prediction" / "reference")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.models.split(","):
        write(name, options.output)


if __name__ == "__main__":
    main()
