"""The fusion of an ensemble as an ONNX file of its own: the features of all parts in, logits out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgevit.errors import CheckFailedError
from edgevit.pruning.fusion import Fusion

# The first opset that has Gelu as one operator.
_OPSET = 20
_TOLERANCE = 1e-4


def write_fusion(fusion: Fusion, names: tuple[str, ...], output: str, items: int, path: Path) -> None:
    """Write a fusion that has the features of every part, and check that it computes the same.

    Args:
        fusion: to be written.
        names: of the inputs, (items, width) float32 each, in the order of the parts.
        output: name of the (items, classes) logits.
        items: images that travel together.
        path: of the file.

    Raises:
        CheckFailedError: when the file computes something else.
    """
    import onnx

    model = onnx.helper.make_model(
        _graph(fusion, names, output, items),
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        producer_name="edgevit",
        ir_version=9,
    )
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    _check(fusion, items, path)


def _graph(fusion: Fusion, names: tuple[str, ...], output: str, items: int) -> Any:
    from onnx import TensorProto, helper, numpy_helper

    network = fusion.network
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    normed = [f"normed.{place}" for place in range(len(names))]
    nodes = [
        helper.make_node(
            "LayerNormalization",
            [name, f"norms.{place}.weight", f"norms.{place}.bias"],
            [normed[place]],
            epsilon=network.norms[place].eps,
            axis=-1,
        )
        for place, name in enumerate(names)
    ]
    nodes += [
        helper.make_node("Concat", normed, ["joined"], axis=1),
        helper.make_node("Gemm", ["joined", "hidden.weight", "hidden.bias"], ["hidden"], transB=1),
        helper.make_node("Gelu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "head.weight", "head.bias"], [output], transB=1),
    ]
    sizes = [*zip(names, fusion.widths, strict=True)]
    return helper.make_graph(
        nodes,
        "fusion",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [items, width]) for name, width in sizes],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [items, fusion.classes])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )


def _check(fusion: Fusion, items: int, path: Path) -> None:
    import onnxruntime

    random = np.random.default_rng(0)
    features = [random.standard_normal((items, width), dtype=np.float32) for width in fusion.widths]
    expected = fusion.predict([torch.from_numpy(feature) for feature in features]).numpy()
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [argument.name for argument in session.get_inputs()]
    (found,) = session.run(None, dict(zip(names, features, strict=True)))
    difference = float(np.abs(np.asarray(found) - expected).max())
    if not difference <= _TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise CheckFailedError(f"{path.name}: the fusion's file differs from the fusion by {difference:.2g}")
