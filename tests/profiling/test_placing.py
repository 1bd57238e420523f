"""Where operators ran: what LiteRT's graph tells of its delegates, and the reasons that tables know."""

from __future__ import annotations

import numpy as np
import pytest

from edgevit.errors import EdgevitError
from edgevit.profiling import profile
from edgevit.profiling.measurements import FellBack
from edgevit.profiling.placing import placed
from edgevit.profiling.probe.runtimes import placed_by


def node(index: int, kind: str, inputs: list[int], outputs: list[int]) -> dict[str, object]:
    """An operator as LiteRT lists it; values are numbers."""
    return {"index": index, "op_name": kind, "inputs": np.array(inputs), "outputs": np.array(outputs)}


def test_a_delegate_took_what_lies_between_its_inputs_and_its_outputs():
    nodes = [
        node(0, "CONV_2D", [0], [1]),
        node(1, "ATAN2", [1], [2]),
        node(2, "ADD", [2, 0], [3]),
        node(3, "MUL", [3], [4]),
        # Two pieces, one on either side of what it does not know.
        node(4, "DELEGATE", [0], [1]),
        node(5, "DELEGATE", [2, 0], [4]),
    ]
    assert placed_by(nodes, "XNNPACK") == {
        "XNNPACK": {"CONV_2D": 1, "ADD": 1, "MUL": 1},
        "built-in kernels": {"ATAN2": 1},
    }


def test_without_a_delegate_everything_is_built_in():
    assert placed_by([node(0, "ADD", [0], [1])], "XNNPACK") == {"built-in kernels": {"ADD": 1}}


def test_the_tables_say_why(tiny_onnx):
    units = {"XnnpackExecutionProvider": {"Conv": 1}, "CPUExecutionProvider": {"Softmax": 1, "ReduceMean": 2}}
    found = placed(tiny_onnx, "onnxruntime 1.22.0", "XnnpackExecutionProvider", units)
    assert found.count("XnnpackExecutionProvider") == 1
    assert found.total == 4
    reason = "the XNNPACK provider has no kernel for it"
    assert found.fell_back[0] == FellBack("ReduceMean", 2, "CPUExecutionProvider", reason)


def test_what_no_table_knows_is_said_to_be_unknown(tiny_onnx):
    found = placed(
        tiny_onnx, "onnxruntime 1.22.0", "AzureExecutionProvider", {"CPUExecutionProvider": {"Conv": 1}}
    )
    assert found.fell_back[0].reason == "onnxruntime does not say why AzureExecutionProvider did not take it"
    assert placed(tiny_onnx, "onnxruntime 1.22.0", "CPUExecutionProvider", None) is None


@pytest.mark.parametrize(("delegate", "ran"), [(None, "XNNPACK"), ("none", "built-in kernels")])
def test_litert_runs_on_what_it_is_asked_for(tiny_tflite, delegate, ran):
    pytest.importorskip("ai_edge_litert")
    found = profile(tiny_tflite, delegate=delegate, threads=1, runs=3, seconds=0)
    assert (found.requested, found.delegate) == (ran, ran)
    assert found.placed.count(ran) == found.placed.total > 10
    assert found.placed.fell_back == ()
    assert {time.unit for time in found.operators.operators} == {ran}
    assert len(found.operators.operators) >= 0.5 * found.placed.total
    assert 0.5 < found.operators_share < 2.0


def test_a_library_that_is_no_delegate_is_one_sentence(tiny_tflite):
    pytest.importorskip("ai_edge_litert")
    with pytest.raises(EdgevitError, match=r"--delegate /no/such\.so: the device cannot load it") as raised:
        profile(tiny_tflite, delegate="/no/such.so", threads=1, runs=3, seconds=0)
    assert "\n" not in str(raised.value)
