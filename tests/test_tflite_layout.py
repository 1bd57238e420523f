"""The layout pass on small graphs written by hand, run before and after."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

from edgevit.export.tflite.layout import remove_transposes  # noqa: E402
from edgevit.export.tflite.model import (  # noqa: E402
    add_constant,
    add_tensor,
    opcode,
    operator_name,
    parse,
    serialise,
    shape_of,
)

FLOAT = schema.TensorType.FLOAT32
OPTIONS = {
    "TRANSPOSE": ("TransposeOptions", {}),
    "RESHAPE": ("ReshapeOptions", {}),
    "ADD": ("AddOptions", {}),
    "MUL": ("MulOptions", {}),
    "MEAN": ("ReducerOptions", {"keepDims": False}),
    "BATCH_MATMUL": ("BatchMatMulOptions", {}),
    "ABS": ("AbsOptions", {}),
    "EXP": ("ExpOptions", {}),
    "SOFTMAX": ("SoftmaxOptions", {"beta": 1.0}),
    "SLICE": ("SliceOptions", {}),
    "FULLY_CONNECTED": ("FullyConnectedOptions", {"keepNumDims": True}),
    "CONV_2D": ("Conv2DOptions", {"strideH": 1, "strideW": 1}),
}


class Graph:
    """A float32 model being written, one operator at a time; tensors are named by index."""

    def __init__(self, *inputs):
        empty = schema.BufferT()
        self.graph = schema.SubGraphT(tensors=[], inputs=[], outputs=[], operators=[])
        self.model = schema.ModelT(
            version=3, operatorCodes=[], subgraphs=[self.graph], buffers=[empty], signatureDefs=[]
        )
        for shape in inputs:
            self.graph.inputs.append(add_tensor(self.graph, shape, FLOAT, f"input{len(self.graph.inputs)}"))

    def shape(self, tensor):
        return shape_of(self.graph.tensors[tensor])

    def constant(self, values):
        return add_constant(self.model, self.graph, np.asarray(values), f"constant{len(self.graph.tensors)}")

    def ints(self, values):
        return self.constant(np.array(values, dtype=np.int32))

    def call(self, name, inputs, shape, **options):
        kind, defaults = OPTIONS[name]
        made = add_tensor(self.graph, tuple(shape), FLOAT, f"{name.lower()}{len(self.graph.tensors)}")
        operator = schema.OperatorT(inputs=list(inputs), outputs=[made])
        operator.opcodeIndex = opcode(self.model, getattr(schema.BuiltinOperator, name))
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        operator.builtinOptions = getattr(schema, f"{kind}T")(**(defaults | options))
        self.graph.operators.append(operator)
        return made

    def transpose(self, tensor, permutation):
        shape = [self.shape(tensor)[axis] for axis in permutation]
        return self.call("TRANSPOSE", [tensor, self.ints(permutation)], shape)

    def reshape(self, tensor, shape):
        return self.call("RESHAPE", [tensor, self.ints(shape)], shape, newShape=list(shape))

    def add(self, one, other):
        return self.call("ADD", [one, other], np.broadcast_shapes(self.shape(one), self.shape(other)))

    def mean(self, tensor, axes, *, keep):
        shape = self.shape(tensor)
        kept = [1 if axis in axes else size for axis, size in enumerate(shape) if keep or axis not in axes]
        return self.call("MEAN", [tensor, self.ints(axes)], kept, keepDims=keep)

    def slice(self, tensor, axis, begin, size):
        starts, shape = [0] * len(self.shape(tensor)), list(self.shape(tensor))
        starts[axis], shape[axis] = begin, size
        return self.call("SLICE", [tensor, self.ints(starts), self.ints(shape)], shape)

    def linear(self, tensor, channels):
        *rows, width = self.shape(tensor)
        weight = np.random.default_rng(1).standard_normal((channels, width), dtype=np.float32)
        return self.call("FULLY_CONNECTED", [tensor, self.constant(weight), -1], [*rows, channels])

    def product(self, one, other):
        """Of one matrix with another, transposed."""
        (*batch, rows, _), columns = self.shape(one), self.shape(other)[-2]
        return self.call("BATCH_MATMUL", [one, other], [*batch, rows, columns], adjY=True)

    def conv(self, tensor, channels=None):
        """A 1x1 convolution, which only takes channels-last."""
        *outer, width = self.shape(tensor)
        channels = channels or width
        weight = np.random.default_rng(1).standard_normal((channels, 1, 1, width), dtype=np.float32)
        bias = self.constant(np.zeros(channels, dtype=np.float32))
        return self.call("CONV_2D", [tensor, self.constant(weight), bias], [*outer, channels])

    def finish(self, *outputs):
        self.graph.outputs = list(outputs)
        return serialise(self.model)


def run(content):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    random = np.random.default_rng(0)
    for details in interpreter.get_input_details():
        values = random.standard_normal(details["shape"]).astype(np.float32)
        interpreter.set_tensor(details["index"], values)
    interpreter.invoke()
    return [interpreter.get_tensor(details["index"]) for details in interpreter.get_output_details()]


def operators(content):
    model = parse(content)
    return Counter(operator_name(model, operator) for operator in model.subgraphs[0].operators)


def rewritten(content):
    """The model after the pass, which must compute the same."""
    model = parse(content)
    remove_transposes(model)
    after = serialise(model)
    for ours, theirs in zip(run(after), run(content), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    return operators(after)


def test_tokens_of_a_feature_map_are_a_reshape():
    g = Graph((1, 3, 4, 2))
    first = g.transpose(g.conv(0), (0, 3, 1, 2))
    tokens = g.transpose(g.reshape(first, (1, 2, 12)), (0, 2, 1))
    assert rewritten(g.finish(g.call("EXP", [tokens], (1, 12, 2)))) == {"CONV_2D": 1, "RESHAPE": 1, "EXP": 1}


def test_a_transpose_and_its_inverse_vanish():
    g = Graph((1, 3, 4, 2))
    back = g.transpose(g.transpose(g.conv(0), (0, 3, 1, 2)), (0, 2, 3, 1))
    assert rewritten(g.finish(g.conv(back))) == {"CONV_2D": 2}


def test_mobilevit_patches_are_one_transpose():
    g = Graph((1, 4, 6, 5))
    first = g.transpose(g.conv(0), (0, 3, 1, 2))
    rows = g.transpose(g.reshape(first, (10, 2, 3, 2)), (0, 2, 1, 3))
    patches = g.transpose(g.reshape(rows, (1, 5, 6, 4)), (0, 3, 2, 1))
    after = rewritten(g.finish(g.call("EXP", [patches], (1, 4, 6, 5))))
    assert after["TRANSPOSE"] == 1


def test_a_transposed_right_side_is_read_as_it_lies():
    g = Graph((1, 2, 5, 3), (1, 2, 4, 3))
    keys = g.reshape(g.transpose(g.call("ABS", [1], (1, 2, 4, 3)), (0, 1, 3, 2)), (2, 3, 4))
    queries = g.reshape(0, (2, 5, 3))
    after = rewritten(g.finish(g.call("BATCH_MATMUL", [queries, keys], (2, 5, 4))))
    assert after["TRANSPOSE"] == 0


def test_a_right_side_that_was_read_transposed_is_read_straight():
    g = Graph((2, 5, 3), (2, 3, 4))
    keys = g.transpose(1, (0, 2, 1))
    after = rewritten(g.finish(g.call("BATCH_MATMUL", [0, keys], (2, 5, 4), adjY=True)))
    assert after == {"BATCH_MATMUL": 1}


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("axes", [(2, 3), (1,), (3, 2), (1, 2, 3)])
def test_a_mean_is_taken_where_the_tensor_lies(axes, keep):
    g = Graph((1, 3, 4, 2))
    mean = g.mean(g.transpose(g.conv(0), (0, 3, 1, 2)), axes, keep=keep)
    output = g.call("EXP", [mean], g.shape(mean))
    assert rewritten(g.finish(output))["TRANSPOSE"] == 0


def test_a_mean_whose_kept_dimensions_change_places_stays():
    g = Graph((2, 3, 4))
    mean = g.mean(g.transpose(g.call("ABS", [0], (2, 3, 4)), (2, 0, 1)), (1,), keep=False)
    assert rewritten(g.finish(g.call("EXP", [mean], (4, 3))))["TRANSPOSE"] == 1


def test_residual_sums_take_the_layout_of_what_they_add():
    g = Graph((1, 3, 4, 2))
    stream = g.transpose(g.conv(0), (0, 3, 1, 2))
    for _ in range(3):
        inside = g.conv(g.transpose(stream, (0, 2, 3, 1)))
        stream = g.add(stream, g.transpose(inside, (0, 3, 1, 2)))
    after = rewritten(g.finish(g.conv(g.transpose(stream, (0, 2, 3, 1)))))
    assert after == {"CONV_2D": 5, "ADD": 3}


def test_constants_are_rewritten_with_the_arithmetic_that_uses_them():
    g = Graph((1, 3, 4, 2))
    first = g.transpose(g.conv(0), (0, 3, 1, 2))
    per_channel = g.constant(np.array([[[[1.0]], [[-2.0]]]], dtype=np.float32))
    per_row = g.constant(np.arange(12, dtype=np.float32).reshape(3, 4))
    scalar = g.constant(np.float32(0.5))
    total = g.add(g.add(g.add(first, per_channel), per_row), scalar)
    assert rewritten(g.finish(g.conv(g.transpose(total, (0, 2, 3, 1))))) == {"CONV_2D": 2, "ADD": 3}


def test_an_output_that_is_a_transpose_keeps_its_place():
    g = Graph((1, 3, 4, 2))
    first = g.transpose(g.conv(0), (0, 3, 1, 2))
    assert rewritten(g.finish(first, g.reshape(first, (2, 12))))["TRANSPOSE"] == 1


def test_an_input_that_is_an_output_stays_one():
    g = Graph((2, 3))
    assert rewritten(g.finish(g.transpose(g.transpose(0, (1, 0)), (1, 0)))) == {"RESHAPE": 1}


def test_a_chain_that_would_need_seven_dimensions_is_cut():
    g = Graph((2,) * 6)
    one = g.transpose(g.call("ABS", [0], (2,) * 6), (5, 4, 3, 2, 1, 0))
    wide = g.reshape(one, (2, 2, 2, 2, 2, 2))
    assert rewritten(g.finish(g.transpose(wide, (1, 0, 3, 2, 5, 4))))["TRANSPOSE"] == 1
    g = Graph((4, 4, 4, 4))
    one = g.reshape(g.transpose(g.call("ABS", [0], (4,) * 4), (3, 2, 1, 0)), (2, 2, 2, 2, 4, 4))
    two = g.reshape(g.transpose(one, (3, 1, 0, 2, 5, 4)), (2, 2, 2, 2, 4, 4))
    assert rewritten(g.finish(g.call("EXP", [two], g.shape(two))))["TRANSPOSE"] <= 2


def any_reshape(draw, g, tensor):
    size = math.prod(g.shape(tensor))
    split = draw(st.sampled_from([d for d in range(1, 7) if size % d == 0]))
    rest = size // split
    return g.reshape(tensor, draw(st.sampled_from([(split, rest), (1, rest, split), (1, rest, 1, split)])))


def any_mean(draw, g, tensor):
    rank = len(g.shape(tensor))
    axes = draw(st.sets(st.sampled_from(range(rank)), min_size=1, max_size=rank - 1))
    return g.mean(tensor, sorted(axes), keep=draw(st.booleans()))


def any_slice(draw, g, tensor):
    shape = g.shape(tensor)
    axis = draw(st.sampled_from(range(len(shape))))
    begin = draw(st.integers(0, shape[axis] - 1))
    return g.slice(tensor, axis, begin, draw(st.integers(1, shape[axis] - begin)))


# Operators of a random graph: the fewest dimensions that each takes, and how it is made.
MAKERS = {
    "transpose": (1, lambda draw, g, x: g.transpose(x, draw(st.permutations(range(len(g.shape(x))))))),
    "transpose again": (1, lambda draw, g, x: g.transpose(x, draw(st.permutations(range(len(g.shape(x))))))),
    "reshape": (1, any_reshape),
    "reshape again": (1, any_reshape),
    "constant": (1, lambda draw, g, x: g.add(x, g.constant(np.arange(g.shape(x)[-1], dtype=np.float32)))),
    "mean": (2, any_mean),
    "slice": (1, any_slice),
    "unary": (1, lambda draw, g, x: g.call("ABS", [x], g.shape(x))),
    "softmax": (1, lambda draw, g, x: g.call("SOFTMAX", [x], g.shape(x))),
    "linear": (2, lambda draw, g, x: g.linear(x, 3)),
    "conv": (4, lambda draw, g, x: g.conv(x)),
}


@st.composite
def graphs(draw):
    """A random graph of reshapes, transposes, arithmetic, means, slices, products and convolutions."""
    g = Graph(draw(st.sampled_from([(1, 2, 3, 4), (1, 4, 2, 2), (2, 6), (2, 3, 2)])))
    made = [0]
    for _ in range(draw(st.integers(1, 9))):
        tensor = draw(st.sampled_from(made))
        shape = g.shape(tensor)
        kind = draw(st.sampled_from(["add", "product", *MAKERS]))
        if kind in MAKERS:
            least, make = MAKERS[kind]
            made.extend([make(draw, g, tensor)] if len(shape) >= least else [])
            continue
        other = draw(st.sampled_from([other for other in made if g.shape(other) == shape]))
        if kind == "add":
            made.append(g.add(tensor, other))
        elif len(shape) > 1:
            made.append(g.product(tensor, other))
    outputs = draw(st.sets(st.sampled_from(made[1:] or made), min_size=1, max_size=2))
    return g.finish(*sorted(outputs - {0} or {g.call("ABS", [0], g.shape(0))}))


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_any_graph_computes_the_same_with_no_more_transposes(content):
    assert rewritten(content)["TRANSPOSE"] <= operators(content)["TRANSPOSE"]
