"""Operators that compute in the shape a tensor has before it is reshaped, on small graphs written by hand."""

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert.schema_py_generated")

from tests.test_tflite_layout import Graph, operators, rewritten


def test_arithmetic_between_a_reshape_and_its_inverse_needs_neither():
    g = Graph((2, 3, 4))
    half = g.constant(np.float32(0.5))
    inside = g.call("MUL", [g.reshape(0, (6, 4)), half], (6, 4))
    assert rewritten(g.finish(g.conv(g.reshape(inside, (1, 2, 3, 4))))) == {
        "MUL": 1,
        "RESHAPE": 1,
        "CONV_2D": 1,
    }


def test_rows_are_scaled_by_a_constant_of_their_length_in_any_arrangement():
    g = Graph((1, 2, 3, 4))
    weight = g.constant(np.arange(4, dtype=np.float32))
    inside = g.call("MUL", [g.reshape(0, (6, 4)), weight], (6, 4))
    assert rewritten(g.finish(g.conv(g.reshape(inside, (1, 2, 3, 4)))))["RESHAPE"] == 0


def test_a_constant_for_every_element_keeps_the_reshape():
    g = Graph((1, 2, 3, 4))
    table = g.constant(np.arange(24, dtype=np.float32).reshape(6, 4))
    inside = g.call("MUL", [g.reshape(0, (6, 4)), table], (6, 4))
    assert rewritten(g.finish(g.conv(g.reshape(inside, (1, 2, 3, 4)))))["RESHAPE"] == 2


@pytest.mark.parametrize("rows", [(6,), (2, 3), (1, 6)])
def test_softmax_and_linear_layers_take_rows_in_any_arrangement(rows):
    g = Graph((1, 2, 3, 4))
    scores = g.call("SOFTMAX", [g.linear(g.reshape(0, (*rows, 4)), 5)], (*rows, 5))
    after = rewritten(g.finish(g.conv(g.reshape(scores, (1, 2, 3, 5)))))
    assert after == {"FULLY_CONNECTED": 1, "SOFTMAX": 1, "CONV_2D": 1}


def test_softmax_over_other_rows_keeps_the_reshape():
    g = Graph((2, 3, 4))
    scores = g.call("SOFTMAX", [g.reshape(0, (2, 12))], (2, 12))
    assert rewritten(g.finish(scores))["RESHAPE"] == 1


def layer_norm(g, tensor):
    """As the converter writes it: statistics of all rows, without the dimension that they are taken over."""
    shape = g.shape(tensor)
    rows = g.reshape(tensor, (1, int(np.prod(shape[:-1])), shape[-1]))
    count = g.shape(rows)[1]
    mean = g.mean(rows, (0, 2), keep=False)
    spread = g.call("EXP", [rows], g.shape(rows))
    inverse = g.call("EXP", [g.add(g.mean(spread, (0, 2), keep=False), g.constant(np.float32(1)))], (count,))
    shift = g.call("MUL", [inverse, mean], (count,))
    scaled = g.call("MUL", [rows, g.reshape(inverse, (1, count, 1))], g.shape(rows))
    return g.reshape(g.add(scaled, g.reshape(shift, (1, count, 1))), shape)


@pytest.mark.parametrize("shape", [(1, 5, 4), (2, 3, 4), (1, 2, 3, 4)])
def test_statistics_keep_their_dimension_where_they_get_it_back(shape):
    g = Graph(shape)
    assert rewritten(g.finish(g.linear(layer_norm(g, 0), 2)))["RESHAPE"] == 0


def test_a_mean_that_is_wanted_without_its_dimension_has_it_not():
    g = Graph((1, 5, 4))
    assert rewritten(g.finish(g.linear(g.reshape(g.mean(0, (2,), keep=False), (1, 5)), 2)))["RESHAPE"] <= 1


def test_slices_are_cut_before_a_reshape_that_only_adds_dimensions():
    g = Graph((6, 5, 4))
    wide = g.reshape(0, (3, 1, 2, 5, 4))
    parts = [g.reshape(g.slice(wide, 0, part, 1), (2, 5, 4)) for part in range(3)]
    after = rewritten(g.finish(g.add(g.add(*parts[:2]), parts[2])))
    assert after == {"SLICE": 3, "ADD": 2}


def test_a_slice_with_gaps_keeps_the_reshape():
    g = Graph((6, 4))
    assert rewritten(g.finish(g.slice(g.reshape(0, (2, 3, 4)), 1, 1, 1)))["RESHAPE"] == 1


def test_slices_of_many_dimensions_are_cut_out_of_fewer():
    g = Graph((3, 2, 2, 5, 4))
    parts = [g.reshape(g.slice(0, 0, part, 1), (4, 5, 4)) for part in range(2)]
    after = rewritten(g.finish(g.call("SOFTMAX", [g.product(*parts)], (4, 5, 5))))
    assert after["RESHAPE"] <= 2


def test_products_keep_the_dimensions_of_the_batch():
    g = Graph((2, 3, 5, 4), (2, 3, 6, 4))
    sides = [g.reshape(0, (6, 5, 4)), g.reshape(1, (6, 6, 4))]
    after = rewritten(g.finish(g.call("ABS", [g.reshape(g.product(*sides), (2, 3, 5, 6))], (2, 3, 5, 6))))
    assert after == {"BATCH_MATMUL": 1, "ABS": 1}


def test_products_of_different_batches_keep_their_reshapes():
    g = Graph((2, 3, 5, 4), (3, 2, 6, 4))
    sides = [g.reshape(0, (6, 5, 4)), g.reshape(1, (6, 6, 4))]
    assert rewritten(g.finish(g.product(*sides)))["RESHAPE"] == 2


def test_no_kernel_gets_more_dimensions_than_it_had_or_four():
    g = Graph((2, 1, 3, 2, 4))
    content = g.finish(g.call("ABS", [g.reshape(0, (12, 4))], (12, 4)))
    assert rewritten(content) == operators(content)
