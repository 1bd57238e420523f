"""What the tables say of ONNX runtimes, beside what they do: which files load, and which kernels ran."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from edgevit.errors import EdgevitError  # noqa: E402
from edgevit.export.placement import placement  # noqa: E402
from edgevit.export.placement.match import refusal  # noqa: E402
from edgevit.export.placement.read_onnx import read_onnx  # noqa: E402
from edgevit.export.placement.tables import index, tables  # noqa: E402

CPU = ("onnxruntime", "CPUExecutionProvider")
OPENCV = ("opencv", "DNN_TARGET_CPU")

# What exported vision models are made of; `benchmarks/onnx_operators.py` tries them all.
VISION = set(
    """
    Add AveragePool BatchNormalization Cast Clip Concat Conv ConvTranspose Div Einsum Erf Exp Expand
    Flatten Gather Gelu Gemm GlobalAveragePool GroupNormalization HardSigmoid HardSwish
    InstanceNormalization LayerNormalization MatMul MaxPool Mul Pad Pow PRelu ReduceL2 ReduceMax
    ReduceMean ReduceSum Relu Reshape ReverseSequence Sigmoid Slice Softmax Split Sqrt Squeeze Sub
    Tanh Tile Transpose Unsqueeze Where Col2Im DeformConv ImageDecoder TfIdfVectorizer
""".split()  # noqa: SIM905 (a list of names is easier read so)
)


def saved(path, nodes, inputs, outputs, initializers=(), opset=20, functions=()):
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializer=list(initializers))
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("edgevit.test", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10, functions=list(functions))
    onnx.save(model, str(path))
    return path


def value(name, *shape, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def readable(path):
    """Its operators; none where they are of a later version of ONNX only."""
    try:
        return read_onnx(path)
    except EdgevitError:
        return ()


@pytest.fixture(scope="module")
def node_tests():
    """ONNX's own tests of single operators, by operator, with inputs that numpy has types for."""
    import sys
    from pathlib import Path

    sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    import onnx_operators

    found = {}
    for case in onnx_operators.cases():
        node = case.model.graph.node[0]
        if node.op_type in VISION and not node.domain:
            found.setdefault(node.op_type, []).append(case)
    return onnx_operators, found


@pytest.mark.parametrize("backend", [CPU, OPENCV], ids=lambda backend: backend[0])
@pytest.mark.parametrize("kind", sorted(VISION))
def test_an_operator_is_listed_when_the_runtime_computes_it(node_tests, backend, kind, tmp_path):
    """Of its first three tests, in float32: refused by the table means that none of them ran."""
    benchmark, found = node_tests
    table = index(tables())[backend]
    if backend == OPENCV and kind == "TfIdfVectorizer":
        pytest.skip("a text operator whose import aborts the process")
    ran, taken = [], []
    for number, case in enumerate(found.get(kind, [])[:3]):
        for name, model, inputs, expected in benchmark.variants(case):
            element = model.graph.input[0].type.tensor_type.elem_type
            # OpenCV has no empty tensors; no vision model has either.
            if element not in (TensorProto.FLOAT, TensorProto.BOOL) or not all(map(np.size, expected)):
                continue
            path = tmp_path / f"{number}-{name}.onnx"
            older = benchmark.copied(model, benchmark.OPSET)
            onnx.save(older, str(path))
            for operator in readable(path):
                taken.append(refusal(table, operator) is None)
                ran.append(benchmark.outcome(backend[0], older, inputs, expected) == "runs")
    if not ran:
        pytest.skip("no test of it in float32")
    assert any(taken) == any(ran)
    assert all(ok for ok, listed in zip(ran, taken, strict=True) if listed)


def test_onnx_runtime_runs_every_node_of_a_model_on_the_provider_that_was_predicted(tiny_onnx, tmp_path):
    """Its own profile names each kernel's provider; without optimisation an operator is one kernel."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(tiny_onnx), options, providers=[CPU[1]])
    session.run(None, {"image": np.zeros((1, 3, 16, 16), np.float32)})
    events = json.loads(open(session.end_profiling()).read())  # noqa: PTH123, SIM115
    kernels = [event["args"] for event in events if event.get("name", "").endswith("_kernel_time")]
    found = next(item for item in placement(tiny_onnx).backends if item.via == CPU[1])
    assert {kernel["provider"] for kernel in kernels} == {CPU[1]}
    ran = Counter(kernel["op_name"] for kernel in kernels)
    assert {kind.kind: kind.count for kind in found.takes} == {
        kind: count for kind, count in ran.items() if kind != "Constant"
    }
    assert (found.taken, found.partitions, found.loads) == (found.total, 1, True)


def test_opencv_loads_and_runs_what_the_table_says_it_does(tiny_onnx, tiny_program):
    import cv2

    found = next(item for item in placement(tiny_onnx).backends if item.runtime == "opencv")
    assert found.loads
    net = cv2.dnn.readNetFromONNX(str(tiny_onnx))
    images = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
    net.setInput(images)
    assert np.allclose(net.forward(), tiny_program.run(images)[0], atol=1e-5)


def test_a_file_with_an_operator_that_opencv_does_not_know_is_refused_by_both(tmp_path):
    import cv2

    path = saved(
        tmp_path / "model.onnx",
        [
            helper.make_node("Relu", ["x"], ["a"]),
            helper.make_node("MeanVarianceNormalization", ["a"], ["y"], axes=[0, 2, 3]),
        ],
        [value("x", 1, 3, 4, 4)],
        [value("y", 1, 3, 4, 4)],
    )
    found = next(item for item in placement(path).backends if item.runtime == "opencv")
    assert (found.loads, found.taken, found.partitions) == (False, 1, 0)
    assert [item.kind for item in found.fallbacks] == ["MeanVarianceNormalization"]
    with pytest.raises(cv2.error, match="MeanVarianceNormalization"):
        cv2.dnn.readNetFromONNX(str(path))


def test_a_file_that_onnx_runtime_has_no_kernel_for_is_refused_by_both(tmp_path):
    import onnxruntime

    path = saved(
        tmp_path / "model.onnx",
        [helper.make_node("ImageDecoder", ["x"], ["y"])],
        [value("x", 9, dtype=TensorProto.UINT8)],
        [value("y", None, None, 3, dtype=TensorProto.UINT8)],
    )
    found = next(item for item in placement(path).backends if item.via == CPU[1])
    assert not found.loads
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented):
        onnxruntime.InferenceSession(str(path), providers=[CPU[1]])


class TestReading:
    def test_shapes_and_types_that_the_file_does_not_say_are_inferred(self, tmp_path):
        path = saved(
            tmp_path / "model.onnx",
            [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Sigmoid", ["a"], ["y"])],
            [value("x", 1, 3, "height", 4)],
            [value("y", 1, 3, None, 4)],
        )
        relu, sigmoid = read_onnx(path)
        assert relu.outputs[0].dtype == sigmoid.inputs[0].dtype == "float32"
        assert relu.outputs[0].shape == (1, 3, None, 4)

    def test_constants_come_from_initializers_nodes_and_what_follows_from_them(self, tmp_path):
        shape = numpy_helper.from_array(np.array([2, 6]), "shape")
        path = saved(
            tmp_path / "model.onnx",
            [
                helper.make_node(
                    "Constant", [], ["c"], value=numpy_helper.from_array(np.ones(3, np.float32))
                ),
                helper.make_node("Neg", ["c"], ["n"]),
                helper.make_node("Add", ["x", "n"], ["a"]),
                helper.make_node("Reshape", ["a", "shape"], ["y"]),
            ],
            [value("x", 4, 3)],
            [value("y", 2, 6)],
            [shape],
        )
        neg, add, reshape = read_onnx(path)
        assert [neg.kind, add.kind, reshape.kind] == ["Neg", "Add", "Reshape"]
        assert neg.inputs[0].values == (1.0, 1.0, 1.0)
        assert (add.inputs[0].constant, add.inputs[1].constant) == (False, True)
        assert reshape.inputs[1].values == (2, 6)

    def test_functions_of_the_file_are_opened_and_other_domains_named(self, tmp_path):
        function = helper.make_function(
            "edgevit.test", "Twice", ["x"], ["y"],
            [helper.make_node("Add", ["x", "x"], ["y"])], [helper.make_opsetid("", 20)],
        )  # fmt: skip
        path = saved(
            tmp_path / "model.onnx",
            [
                helper.make_node("Twice", ["x"], ["a"], domain="edgevit.test"),
                helper.make_node("Gelu", ["a"], ["y"], domain="com.microsoft"),
            ],
            [value("x", 2, 2)],
            [value("y", 2, 2)],
            functions=[function],
        )
        model = onnx.load(str(path))
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        onnx.save(model, str(path))
        assert [item.kind for item in read_onnx(path)] == ["Add", "com.microsoft:Gelu"]

    def test_inputs_that_are_left_out_keep_the_numbers_of_the_others(self, tmp_path):
        sizes = numpy_helper.from_array(np.array([1, 3, 8, 8]), "sizes")
        path = saved(
            tmp_path / "model.onnx",
            [helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear")],
            [value("x", 1, 3, 4, 4)],
            [value("y", 1, 3, 8, 8)],
            [sizes],
        )
        (resize,) = read_onnx(path)
        assert [item.slot for item in resize.inputs] == ["0", "3"]
        assert resize.attributes["mode"] == "linear"

    def test_the_metadata_beside_a_file_need_not_be_there(self, tiny_onnx, tmp_path):
        path = tmp_path / "alone.onnx"
        shutil.copy(tiny_onnx, path)
        assert placement(path).operators == placement(tiny_onnx).operators
