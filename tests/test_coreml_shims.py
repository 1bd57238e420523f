"""The shims are there for faults of coremltools: each test here fails when its fault is gone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("coremltools")

import coremltools as ct
from coremltools.converters.mil import Builder
from coremltools.converters.mil.frontend.torch import ops
from coremltools.converters.mil.mil import Function

from edgevit.export.coreml_shims import (
    converter_shims,
    decompositions,
    exact_passes,
    needs_alias_shim,
    needs_cast_shim,
)
from edgevit.export.mil.quiet import quiet_coremltools


def converted(module, **options):
    example = (torch.ones(1, 3, 4, 4),)
    exported = torch.export.export(module.eval(), example).run_decompositions({})
    with quiet_coremltools():
        return ct.convert(
            exported, minimum_deployment_target=ct.target.iOS16, skip_model_load=True, **options
        )


class Aliased(torch.nn.Module):
    def forward(self, image):
        return torch.relu(torch.ops.aten.alias.default(image))


def test_alias_has_no_translation_without_the_shim():
    assert needs_alias_shim()
    with pytest.raises(NotImplementedError, match="alias"):
        converted(Aliased())
    with converter_shims():
        converted(Aliased())


class Results(dict):
    """As much of coremltools' context as `_cast` looks at: values by name."""

    frontend = None

    def add(self, value, name):
        self[name] = value


def cast_of_one_element():
    node = SimpleNamespace(name="number", kind="int", inputs=["x"])
    with Function({}):
        results = Results(x=Builder.const(val=np.int32([7])))
        ops._cast(results, node, int, "int32")
    return results["number"].val


def test_casting_a_one_element_constant_fails_without_the_shim():
    assert needs_cast_shim()
    with pytest.raises(TypeError):
        cast_of_one_element()
    with converter_shims():
        assert cast_of_one_element() == 7


class TwoOutputs(torch.nn.Module):
    def forward(self, image):
        logits = image.mean((2, 3))
        return logits, torch.softmax(logits, -1)


def test_a_classifier_with_a_second_output_fails_without_the_shim():
    options = {
        "outputs": [ct.TensorType(name="logits"), ct.TensorType(name="chances")],
        "classifier_config": ct.ClassifierConfig(["a", "b", "c"], "label", "chances"),
    }
    with pytest.raises(IndexError):
        converted(TwoOutputs(), **options)
    with converter_shims():
        model = converted(TwoOutputs(), **options)
    assert [output.name for output in model.get_spec().description.output] == [
        "label",
        "label_probs",
        "logits",
    ]


class Tanh(torch.nn.Module):
    def forward(self, image):
        return torch.nn.functional.gelu(image, approximate="tanh")


def gelu_modes(model):
    return [operation.mode.val for operation in model._mil_program.functions["main"].find_ops(op_type="gelu")]


def test_the_approximation_of_gelu_is_lost_without_the_shim():
    assert gelu_modes(converted(Tanh())) == ["EXACT"]
    with converter_shims():
        assert gelu_modes(converted(Tanh())) == ["TANH_APPROXIMATION"]


SUMS = {
    "add": lambda x, y: torch.add(x, y, alpha=3),
    "sub": lambda x, y: torch.sub(x, y, alpha=3),
    "rsub": lambda x, y: torch.rsub(x, y, alpha=3),
}


class Sum(torch.nn.Module):
    def __init__(self, name):
        super().__init__()
        self.function = SUMS[name]

    def forward(self, image):
        return self.function(image, torch.relu(image))


@pytest.mark.parametrize("name", SUMS)
def test_alpha_is_lost_without_the_decompositions(name):
    assert converted(Sum(name))._mil_program.functions["main"].find_ops(op_type="mul") == []


@pytest.mark.parametrize("name", SUMS)
def test_the_decompositions_compute_the_same(name):
    image = torch.randn(1, 3, 4, 4)
    exported = torch.export.export(Sum(name), (image,)).run_decompositions(decompositions())
    assert not any("alpha" in node.kwargs for node in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(image), Sum(name)(image))


def test_the_shims_are_gone_after_the_block():
    before = ops._cast
    with converter_shims():
        assert ops._cast is not before
    assert ops._cast is before
    assert needs_alias_shim()


class ScaledAndShifted(torch.nn.Module):
    def forward(self, image):
        scale, shift = torch.arange(2.0, 5.0), torch.ones(3)
        return image * scale.reshape(3, 1, 1) + shift.reshape(3, 1, 1)


def norms(model):
    return model._mil_program.functions["main"].find_ops(op_type="batch_norm")


def test_a_scale_and_a_shift_become_an_inexact_batch_norm_without_the_shim():
    (norm,) = norms(converted(ScaledAndShifted(), compute_precision=ct.precision.FLOAT32))
    assert norm.epsilon.val > 0
    assert norm.variance.val.tolist() == [1, 1, 1]
    assert norms(converted(ScaledAndShifted(), pass_pipeline=exact_passes())) == []
