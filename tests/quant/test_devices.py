"""Calibrating elsewhere: everything goes there, and the result comes back."""

from __future__ import annotations

import pytest
import torch

from edgevit.errors import EdgevitError
from edgevit.graph import devices
from edgevit.graph.devices import check_device, moved, on
from edgevit.quant.calibration import Calibration
from edgevit.quant.quantizing import QuantizeResult, quantize
from tests.quant.helpers import SHAPE, Tokens, images, logits, seeded
from tests.rewrites.helpers import program_of

PROGRAM = program_of(seeded(Tokens), SHAPE)
# The processor by a name that is not the usual one: what is done for another device is done for it.
ELSEWHERE = "cpu:0"


def run(device: str) -> QuantizeResult:
    labels = [number % 2 for number in range(16)]
    return quantize(
        PROGRAM, images(16).numpy(), labels=labels, iterations=3, max_drop=100.0, torch_device=device
    )


def test_a_device_that_is_unknown_is_refused():
    with pytest.raises(EdgevitError, match="--torch-device: 'gpu' is unknown"):
        check_device("gpu")


def test_what_is_made_inside_lies_there():
    with on("cpu"):
        assert torch.get_default_device() == torch.device("cpu")


def test_a_moved_program_computes_the_same_and_leaves_the_other_as_it_is():
    before = dict(PROGRAM.exported.state_dict)
    found = moved(PROGRAM, "cpu")
    assert torch.equal(logits(found), logits(PROGRAM))
    assert found.card == PROGRAM.card
    assert found.exported is not PROGRAM.exported
    assert all(PROGRAM.exported.state_dict[name] is tensor for name, tensor in before.items())


def test_images_that_lie_there_already_are_not_copied():
    calibration = Calibration(images(8), torch.zeros(8))
    found = calibration.on("cpu")
    assert found.images is calibration.images
    assert found.labels is calibration.labels


def test_the_way_there_and_back_changes_nothing(monkeypatch):
    monkeypatch.setattr(devices, "DEVICES", ("cpu", ELSEWHERE))
    here, there = run("cpu"), run(ELSEWHERE)
    assert str(here.program.graph) == str(there.program.graph)
    state = there.program.exported.state_dict
    assert all(torch.equal(value, state[name]) for name, value in here.program.exported.state_dict.items())
    assert here.drop == there.drop


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
@pytest.mark.parametrize("method", ["minmax", "hessian", "reconstruct"])
def test_a_gpu_gives_back_a_program_of_the_processor(method):
    given = images(16).numpy()
    found = quantize(PROGRAM, given, method=method, iterations=3, placement="full", torch_device="cuda")
    assert {str(value.device) for value in found.program.exported.state_dict.values()} == {"cpu"}
    here = quantize(PROGRAM, given, method="minmax", placement="full")
    assert float((logits(found.program) - logits(here.program)).abs().max()) < 0.2
