"""A floor for accuracy: who falls back to what, in which order, and when it ends."""

from __future__ import annotations

import pytest
import torch

from edgevit.quant.calibration import Calibration
from edgevit.quant.floor import Floor
from edgevit.quant.insertion import insert_quantizers
from edgevit.quant.sensitivity import LayerSensitivity
from edgevit.quant.widening import Widening, widened_layers
from tests.quant.helpers import Net, Started, Tokens, images, logits, seeded, started

CALIBRATION = Calibration(images(16))


def floor_of(found: Started, max_drop: float | None, *, widen: bool = True) -> Floor:
    widening = Widening(found.program, found.observed, "auto") if widen else None
    return Floor(found.program, CALIBRATION, max_drop, widening)


def sensitivity(*layers: str) -> tuple[LayerSensitivity, ...]:
    """Of layers, the last the most sensitive."""
    return tuple(LayerSensitivity(name, "", float(place), 0.0) for place, name in enumerate(layers))


def as_if(monkeypatch, drop) -> None:
    monkeypatch.setattr(Floor, "drop", lambda _, quantization: drop(quantization))


@pytest.fixture
def found() -> Started:
    return started(seeded(Tokens), "full")


def test_the_most_sensitive_layers_are_widened_first_and_no_more_than_are_needed(monkeypatch, found):
    layers = list(found.quantization.weights)
    as_if(monkeypatch, lambda one: 4.0 - len(widened_layers(found.program, one)))
    result = floor_of(found, 3.0).meet(found.quantization, sensitivity(*layers))
    assert result.widened == (layers[-1],)
    assert result.kept_float == {}
    assert result.drop == 3.0


def test_of_layers_that_do_damage_those_go_first_that_save_little(monkeypatch, found):
    layers = list(found.quantization.weights)
    as_if(monkeypatch, lambda one: float(len(one.weights)))
    # The second most sensitive saves a hundredth of what the others do.
    gains = dict.fromkeys(layers, 1.0) | {layers[-2]: 0.01}
    result = floor_of(found, 3.0, widen=False).meet(found.quantization, sensitivity(*layers), gains)
    assert list(result.kept_float) == [layers[-2]]


def test_no_layer_goes_float_before_all_are_widened(monkeypatch, found):
    layers = list(found.quantization.weights)
    seen = []

    def drop(one):
        seen.append((len(widened_layers(found.program, one)), len(one.weights)))
        return 100.0 if one.weights else 0.0

    as_if(monkeypatch, drop)
    result = floor_of(found, 1.0).meet(found.quantization, sensitivity(*layers))
    assert set(result.kept_float) == set(layers)
    assert result.widened == ()
    assert result.drop == 0.0
    wide, left = zip(*seen, strict=True)
    assert left[: wide.index(len(layers)) + 1] == (len(layers),) * (wide.index(len(layers)) + 1)
    assert all(count == total for count, total in seen[wide.index(len(layers)) :])


def test_with_the_last_layer_all_that_computes_between_them_is_widened(monkeypatch, found):
    layers = list(found.quantization.weights)
    # All but the softmax's.
    as_if(monkeypatch, lambda one: float(sum(grid.bits == 8 for grid in one.activations.values())))
    result = floor_of(found, 1.0).meet(found.quantization, sensitivity(*layers))
    assert result.widened == tuple(layers)
    assert result.kept_float == {}


def test_without_widening_layers_go_float_at_once(monkeypatch, found):
    layers = list(found.quantization.weights)
    as_if(monkeypatch, lambda one: float(len(one.weights)))
    result = floor_of(found, 3.0, widen=False).meet(found.quantization, sensitivity(*layers))
    assert dict(result.kept_float) == {layers[-1]: "--max-drop 3"}
    assert result.widened == ()


@pytest.mark.parametrize("max_drop", [None, 100.0])
def test_a_floor_that_holds_leaves_all_as_it_is(found, max_drop):
    result = floor_of(found, max_drop).meet(found.quantization, sensitivity(*found.quantization.weights))
    assert result.quantization == found.quantization
    assert (result.widened, result.kept_float) == ((), {})


@pytest.mark.parametrize(
    ("model", "placement"),
    [(Net, "inputs"), (Net, "layers"), (Net, "full"), (Tokens, "layers"), (Tokens, "full")],
)
def test_four_bits_that_change_classes_are_met_with_16(model, placement):
    found = started(seeded(model), placement, "w4a4")
    floor = floor_of(found, 0.0)
    assert floor.drop(found.quantization) > 0
    result = floor.meet(found.quantization, sensitivity(*found.quantization.weights))
    assert result.drop == 0
    assert result.widened
    quantized = insert_quantizers(found.program, result.quantization)
    expected = logits(found.program, CALIBRATION.images).argmax(-1)
    assert torch.equal(logits(quantized, CALIBRATION.images).argmax(-1), expected)


def test_labels_make_the_drop_one_of_accuracy(found):
    predicted = logits(found.program, CALIBRATION.images).argmax(-1)
    floor = Floor(found.program, Calibration(CALIBRATION.images, (predicted + 1) % 4), 0.0)
    assert floor.drop(found.quantization) <= 0


def test_a_graph_without_layers_goes_float_as_a_whole(monkeypatch):
    found = started(lambda x: (x + x).mean((2, 3)), "full")
    assert not found.quantization.weights
    as_if(monkeypatch, lambda one: float(bool(one.activations)))
    result = floor_of(found, 0.0).meet(found.quantization, ())
    assert result.quantization.levels == {}
