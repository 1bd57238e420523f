"""What the tables say of LiteRT, beside what the interpreter does: the same operators, delegated or not."""

from __future__ import annotations

import os
import subprocess

import numpy as np
import pytest

from edgevit.export.placement import placement
from edgevit.export.placement.match import refusal
from edgevit.export.placement.read_tflite import read_tflite
from edgevit.export.placement.tables import index, tables
from tests.test_tflite import older_runtime  # noqa: F401  (a fixture)
from tests.tflite_operators import Const, Live, delegated, ints, one_operator

pytest.importorskip("ai_edge_litert")
pytest.importorskip("litert_torch")

IMAGE = (1, 4, 4, 8)
UNARY = (
    "ABS", "CEIL", "COS", "ELU", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOG", "LOGISTIC",
    "NEG", "RELU", "RELU6", "RELU_N1_TO_1", "ROUND", "RSQRT", "SIGN", "SIN", "SQRT", "SQUARE", "TANH",
    "L2_NORMALIZATION",
)  # fmt: skip
BINARY = ("ADD", "DIV", "MAXIMUM", "MINIMUM", "MUL", "SQUARED_DIFFERENCE", "SUB", "POW", "FLOOR_DIV")
POOL = {"strideW": 2, "strideH": 2, "filterWidth": 2, "filterHeight": 2, "padding": 1}
STRIDES = {"strideW": 1, "strideH": 1}


def zeros(*shape, dtype="float32", scale=None):
    return Const(np.zeros(shape), dtype, scale)


def image(dtype="float32", shape=IMAGE):
    return Live(*shape, dtype=dtype)


def cases():
    """(name, operator, inputs, outputs, options), each one that the interpreter loads."""
    for kind in UNARY:
        options = {"alpha": 0.1} if kind == "LEAKY_RELU" else {}
        yield kind, kind, [image()], [image()], options
        if kind != "L2_NORMALIZATION":
            wide = (1, 1, 2, 2, 2, 2, 2)
            yield f"{kind} of rank 7", kind, [image(shape=wide)], [image(shape=wide)], options
    for kind in ("LEAKY_RELU", "LOGISTIC", "TANH", "RELU", "RELU6", "ABS", "GELU", "RSQRT"):
        options = {"version": 2} | ({"alpha": 0.1} if kind == "LEAKY_RELU" else {})
        yield f"{kind} int8", kind, [image("int8")], [image("int8")], options
    for kind in BINARY:
        for dtype in ("float32", "int32"):
            yield f"{kind} {dtype}", kind, [image(dtype), image(dtype)], [image(dtype)], {}
        if kind != "POW":
            yield f"{kind} int8", kind, [image("int8")] * 2, [image("int8")], {"version": 2}
    yield "ADD with TANH", "ADD", [image()] * 2, [image()], {"fusedActivationFunction": 4}
    yield "SOFTMAX", "SOFTMAX", [image()], [image()], {"beta": 1.0}
    yield "SOFTMAX of beta 2", "SOFTMAX", [image()], [image()], {"beta": 2.0}
    yield "PRELU", "PRELU", [image(), zeros(1, 1, 8)], [image()], {}
    yield "QUANTIZE", "QUANTIZE", [image()], [image("int8")], {}
    yield "DEQUANTIZE", "DEQUANTIZE", [image("int8")], [image()], {"version": 2}
    yield "AVERAGE_POOL_2D int8", "AVERAGE_POOL_2D", [image("int8")], [Live(1, 2, 2, 8, dtype="int8")], {
        **POOL, "version": 2
    }  # fmt: skip
    for dtype, version in (("float32", 1), ("int8", 2)):
        for name, kind, inputs, outputs, options in typed_cases(dtype):
            yield f"{name} {dtype}", kind, inputs, outputs, {"version": version, **options}


def typed_cases(dtype):
    x, bias = image(dtype), zeros(8) if dtype == "float32" else zeros(8, dtype="int32", scale=2**-16)

    def live(*shape):
        return Live(*shape, dtype=dtype)

    conv = {**STRIDES, "version": 1 if dtype == "float32" else 3}
    dense = {"version": 1 if dtype == "float32" else 4}
    yield "MAX_POOL_2D", "MAX_POOL_2D", [x], [live(1, 2, 2, 8)], POOL
    yield "BATCH_MATMUL", "BATCH_MATMUL", [live(2, 4, 8), live(2, 8, 4)], [live(2, 4, 4)], {}
    for count in (2, 4, 5, 6):
        parts = [live(1, 4, 4, 2)] * count
        yield f"CONCATENATION of {count}", "CONCATENATION", parts, [live(1, 4, 4, 2 * count)], {"axis": 3}
    weights = zeros(8, 1, 1, 8, dtype=dtype)
    yield "CONV_2D", "CONV_2D", [x, weights, bias], [x], conv
    yield "CONV_2D of a live filter", "CONV_2D", [x, live(8, 1, 1, 8), bias], [x], conv
    depthwise = {**conv, "depthMultiplier": 1}
    yield "DEPTHWISE_CONV_2D", "DEPTHWISE_CONV_2D", [x, zeros(1, 3, 3, 8, dtype=dtype), bias], [x], depthwise
    yield (
        "DEPTHWISE_CONV_2D without bias",
        "DEPTHWISE_CONV_2D",
        [x, zeros(1, 3, 3, 8, dtype=dtype)],
        [x],
        depthwise,
    )
    matrix = zeros(8, 8, dtype=dtype)
    yield "FULLY_CONNECTED", "FULLY_CONNECTED", [live(4, 8), matrix, bias], [live(4, 8)], dense
    yield (
        "FULLY_CONNECTED of a live matrix",
        "FULLY_CONNECTED",
        [live(4, 8), live(8, 8), bias],
        [live(4, 8)],
        dense,
    )
    yield (
        "FULLY_CONNECTED without bias",
        "FULLY_CONNECTED",
        [live(4, 8), matrix],
        [live(4, 8)],
        {"version": 6},
    )
    yield "DEPTH_TO_SPACE", "DEPTH_TO_SPACE", [x], [live(1, 8, 8, 2)], {"blockSize": 2}
    yield "SPACE_TO_DEPTH", "SPACE_TO_DEPTH", [x], [live(1, 2, 2, 32)], {"blockSize": 2}
    yield "EXPAND_DIMS", "EXPAND_DIMS", [live(4, 8), Const(1, "int32")], [live(4, 1, 8)], {"version": 1}
    yield "SQUEEZE", "SQUEEZE", [live(4, 1, 8)], [live(4, 8)], {"squeezeDims": [1]}
    for kind in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"):
        yield kind, kind, [x, ints(1, 2)], [live(1, 8)], {}
        yield f"{kind} of channels", kind, [x, ints(3)], [live(1, 4, 4, 1)], {"keepDims": True}
        yield f"{kind} of rank 2", kind, [live(4, 8), ints(1)], [live(4, 1)], {"keepDims": True}
    yield "MEAN of live axes", "MEAN", [x, Live(2, dtype="int32")], [live(1, 8)], {}
    yield "PAD", "PAD", [x, zeros(4, 2, dtype="int32")], [x], {}
    yield "RESHAPE", "RESHAPE", [x, ints(16, 8)], [live(16, 8)], {"newShape": [16, 8], "version": 1}
    wide = (1, 1, 2, 2, 2, 2, 8)
    yield (
        "RESHAPE to rank 7",
        "RESHAPE",
        [x, ints(*wide)],
        [live(*wide)],
        {"newShape": list(wide), "version": 1},
    )
    yield "RESHAPE to a live shape", "RESHAPE", [x, Live(2, dtype="int32")], [live(16, 8)], {"version": 1}
    yield "RESIZE_BILINEAR", "RESIZE_BILINEAR", [x, ints(8, 8)], [live(1, 8, 8, 8)], {}
    yield "RESIZE_NEAREST_NEIGHBOR", "RESIZE_NEAREST_NEIGHBOR", [x, ints(8, 8)], [live(1, 8, 8, 8)], {}
    yield "SLICE", "SLICE", [x, ints(0, 0, 0, 0), ints(1, 2, 2, 8)], [live(1, 2, 2, 8)], {}
    for count in (2, 4, 5):
        parts = [live(1, 4, 4, 2)] * count
        yield (
            f"SPLIT in {count}",
            "SPLIT",
            [Const(3, "int32"), live(1, 4, 4, 2 * count)],
            parts,
            {"numSplits": count},
        )
    begin, end = ints(0, 0, 0, 0), ints(1, 4, 4, 8)
    yield (
        "STRIDED_SLICE",
        "STRIDED_SLICE",
        [x, begin, ints(1, 2, 2, 8), ints(1, 1, 1, 1)],
        [live(1, 2, 2, 8)],
        {},
    )
    yield "STRIDED_SLICE by 2", "STRIDED_SLICE", [x, begin, end, ints(1, 2, 2, 1)], [live(1, 2, 2, 8)], {}
    yield "TRANSPOSE", "TRANSPOSE", [x, ints(0, 3, 1, 2)], [live(1, 8, 4, 4)], {}
    cube = (1, 2, 4, 2, 2, 2)
    yield (
        "TRANSPOSE of rank 6",
        "TRANSPOSE",
        [live(*cube), ints(0, 1, 2, 3, 5, 4)],
        [live(*cube)],
        {"version": 5},
    )
    up = {"strideW": 2, "strideH": 2}
    kernel = zeros(8, 2, 2, 8, dtype=dtype)
    yield "TRANSPOSE_CONV", "TRANSPOSE_CONV", [ints(1, 8, 8, 8), kernel, x], [live(1, 8, 8, 8)], up
    yield "GATHER", "GATHER", [live(4, 8), ints(0, 1)], [live(2, 8)], {}
    yield "PACK", "PACK", [live(4, 8)] * 2, [live(2, 4, 8)], {"valuesCount": 2}
    yield "TILE", "TILE", [live(1, 4), ints(2, 1)], [live(2, 4)], {}


CASES = {name: rest for name, *rest in cases()}


def content_of(name):
    kind, inputs, outputs, options = CASES[name]
    return one_operator(kind, inputs, outputs, **options)


@pytest.mark.parametrize("name", CASES)
def test_the_table_says_of_an_operator_what_the_interpreter_does(tmp_path, name):
    content = content_of(name)
    path = tmp_path / "one.tflite"
    path.write_bytes(content)
    (operator,) = read_tflite(path)
    reason = refusal(index(tables())["litert", "XNNPACK"], operator)
    _, partitions = delegated(content)
    assert (reason is None) == (partitions == 1), reason or "the table takes it, the interpreter does not"


RUNNER = """
import sys
from tflite_runtime.interpreter import Interpreter

def inside(interpreter, node):
    # As `tests.tflite_operators.delegated` says.
    try:
        interpreter.get_tensor(int(node["outputs"][0]))
    except ValueError:
        return True
    return False

for name in sys.argv[1:]:
    try:
        interpreter = Interpreter(model_path=name)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError):
        print("refused")
        continue
    nodes = interpreter._get_ops_details()
    partitions = [node for node in nodes if node["op_name"] == "DELEGATE"]
    leaving = {int(index) for node in partitions for index in node["outputs"]}
    operators = [node for node in nodes if node["op_name"] != "DELEGATE"]
    taken = sum(int(node["outputs"][0]) in leaving or inside(interpreter, node) for node in operators)
    print(f"{taken}/{len(partitions)}")
"""


def run_on_older(python, folder, paths):
    """Operators taken and partitions of each file, as "48/7", or "refused"."""
    script = folder / "run.py"
    script.write_text(RUNNER)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), str(script), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.split()


@pytest.mark.slow
def test_the_table_of_the_last_tflite_runtime_says_what_it_does(tmp_path, older_runtime):  # noqa: F811
    table = index(tables())["tflite-runtime", "XNNPACK"]
    paths, expected = [], []
    for number, name in enumerate(CASES):
        paths.append(tmp_path / f"{number}.tflite")
        paths[-1].write_bytes(content_of(name))
        expected.append(refusal(table, *read_tflite(paths[-1])))
    found = run_on_older(older_runtime, tmp_path, paths)
    assert len(found) == len(CASES)
    wrong = [
        f"{name}: {reason or 'taken'}, but {outcome}"
        for name, reason, outcome in zip(CASES, expected, found, strict=True)
        if outcome != "refused" and (reason is None) != (outcome == "1/1")
    ]
    assert wrong == []


@pytest.mark.slow
def test_of_a_model_the_last_tflite_runtime_delegates_what_is_predicted(
    hybrid,
    tmp_path,
    older_runtime,  # noqa: F811
):
    paths = sorted(hybrid.glob("*.tflite"))
    backends = [item for path in paths for item in placement(path).backends]
    older = [item for item in backends if (item.runtime, item.via) == ("tflite-runtime", "XNNPACK")]
    assert run_on_older(older_runtime, tmp_path, paths) == [
        f"{item.taken}/{item.partitions}" for item in older
    ]
    assert any(item.partitions > 1 for item in older)


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory):
    """Small hybrids as TFLite files: float32, and with weights kept as halves."""
    from edgevit.export import to_tflite
    from tests.tflite_models import ConvStage, Hybrid, program_of

    folder = tmp_path_factory.mktemp("hybrid")
    for name, model in (("hybrid", Hybrid()), ("stage", ConvStage())):
        program = program_of(model)
        for precision in ("fp32", "fp16"):
            to_tflite(program, folder / f"{name}-{precision}.tflite", precision=precision)
    return folder


@pytest.mark.parametrize("name", ["hybrid-fp32", "hybrid-fp16", "stage-fp32", "stage-fp16"])
def test_of_a_model_the_interpreter_delegates_what_is_predicted(hybrid, name):
    path = hybrid / f"{name}.tflite"
    operators = read_tflite(path)
    found = next(
        item for item in placement(path).backends if item.via == "XNNPACK" and item.runtime == "litert"
    )
    real, partitions = delegated(path.read_bytes())
    table = index(tables())["litert", "XNNPACK"]
    assert real == [(operator.kind, refusal(table, operator) is None) for operator in operators]
    assert found.taken == sum(taken for _, taken in real)
    assert found.partitions == partitions


def test_what_xnnpack_refuses_in_the_middle_of_a_model_divides_it(tmp_path):
    """A model with an operator that XNNPACK has not, between ones that it has."""
    from torch import nn

    from edgevit.export import to_tflite
    from tests.tflite_models import program_of

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 3, padding=1)

        def forward(self, x):
            # No kernel of XNNPACK computes a sign.
            return self.second(self.first(x).relu().sign()).mean((2, 3))

    path = tmp_path / "model.tflite"
    to_tflite(program_of(Wrapped()), path)
    found = next(
        item for item in placement(path).backends if item.via == "XNNPACK" and item.runtime == "litert"
    )
    real, partitions = delegated(path.read_bytes())
    assert ("SIGN", False) in real
    assert found.taken == sum(taken for _, taken in real)
    assert found.total == len(real)
    assert found.partitions == partitions > 1
    assert [(item.kind, item.count) for item in found.fallbacks] == [("SIGN", 1)]


def test_counts_are_those_of_the_tflite_reader(hybrid):
    from edgevit.export.tflite import count_operators, count_transposes

    path = hybrid / "hybrid-fp32.tflite"
    found = placement(path)
    assert {item.kind: item.count for item in found.operators} == count_operators(path)
    assert found.transposes == count_transposes(path)


def test_a_custom_operator_and_sizes_that_the_caller_chooses_are_read(tmp_path):
    from edgevit.export.tflite.model import parse, serialise

    model = parse(one_operator("RELU", [image()], [image()]))
    code, tensor = model.operatorCodes[0], model.subgraphs[0].tensors[0]
    code.builtinCode, code.deprecatedBuiltinCode, code.customCode = 32, 32, b"Mine\x1b[2J"
    tensor.shapeSignature = np.array([-1, 4, 4, 8], np.int32)
    path = tmp_path / "custom.tflite"
    path.write_bytes(serialise(model))
    (operator,) = read_tflite(path)
    assert operator.kind == "CUSTOM:Mine?[2J"
    assert operator.inputs[0].shape == (None, 4, 4, 8)
    assert all(item.taken == 0 for item in placement(path).backends)
