"""Exports for a device: its formats, precision, layout and system, and what the user says over them."""

from __future__ import annotations

import re

import pytest

from edgevit.cli.output import operators_line
from edgevit.errors import EdgevitError
from edgevit.export.exporting import export
from edgevit.export.formats import FORMATS, ExportChoices
from edgevit.export.target import best_formats, choose_for
from edgevit.profiles import devices, load_profile

DEVICES = [pytest.param(device, id=device.name) for device in devices()]


def choices_for(device, name, **given):
    (chosen,) = choose_for(load_profile(device), [name], ExportChoices(**given))
    return chosen


@pytest.mark.parametrize("device", DEVICES)
def test_every_device_gets_formats_it_runs_in_a_precision_its_unit_computes_in(device):
    formats = best_formats(device)
    assert formats
    for chosen in choose_for(device, formats, ExportChoices()):
        assert chosen.backend in device.backends(chosen.format)
        assert chosen.choices.precision in chosen.backend.precisions
        assert set(chosen.choices.given()) - {"precision"} <= set(FORMATS[chosen.format].choices)


def test_the_best_unit_that_a_float_model_reaches_picks_the_formats():
    assert best_formats(load_profile("iphone-15")) == ("onnx", "coreml")  # the Neural Engine
    assert best_formats(load_profile("pixel-8")) == ("tflite",)  # the GPU
    assert best_formats(load_profile("raspberry-pi-5")) == ("onnx", "tflite")  # both the CPU
    assert best_formats(load_profile("coral-dev-board")) == ("tflite",)  # its TPU takes no float model


def test_half_precision_is_for_units_that_compute_in_it():
    assert choices_for("pixel-8", "tflite").choices.precision == "fp16"
    assert choices_for("pixel-8", "onnx").choices.precision == "fp32"
    assert choices_for("coral-dev-board", "tflite").choices.precision == "fp32"


@pytest.mark.parametrize(("device", "ios"), [("iphone-15", "17"), ("iphone-16", "18")])
def test_the_system_of_a_phone_is_the_oldest_its_package_runs_on(device, ios):
    assert choices_for(device, "coreml").choices.minimum_ios == ios


def test_what_the_user_says_stands():
    chosen = choices_for("pixel-8", "tflite", precision="fp32", layout="nchw")
    assert (chosen.choices.precision, chosen.choices.layout) == ("fp32", "nchw")
    assert chosen.explain() == "tflite: for GPU delegate on the gpu, precision fp32, layout nchw"


def test_a_format_that_the_device_does_not_run_is_refused():
    with pytest.raises(EdgevitError, match="--target: Google Pixel 8 runs onnx, tflite, not coreml"):
        choices_for("pixel-8", "coreml")


def test_an_unknown_device_is_refused_before_anything_is_written(tiny_program, tmp_path):
    with pytest.raises(EdgevitError, match='unknown device "pixle-8".* did you mean "pixel-8"'):
        export(tiny_program, target="pixle-8", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_says_what_the_target_asked_for(tiny_program, tmp_path):
    pytest.importorskip("litert_torch")
    result = export(tiny_program, target="pixel-8", output=tmp_path / "out")
    assert result.target == ("tflite: for GPU delegate on the gpu, precision fp16, layout nhwc",)
    (artefact,) = result.artefacts
    assert (artefact.info.precision, artefact.info.options["layout"]) == ("fp16", "nhwc")
    assert artefact.placement.device == "Google Pixel 8"
    line = operators_line(artefact.placement)
    assert re.search(r"; XNNPACK takes \d+; GPU delegate takes \d+( in \d+ partitions)?$", line), line
    assert result.passed


def test_a_quantized_model_goes_where_integers_are_computed_in_its_own_precision():
    assert best_formats(load_profile("coral-dev-board"), quantized=True) == ("tflite",)
    (chosen,) = choose_for(load_profile("coral-dev-board"), ["tflite"], ExportChoices(), quantized=True)
    assert (chosen.backend.unit, chosen.choices.precision) == ("tpu", None)
    (chosen,) = choose_for(load_profile("pixel-8"), ["tflite"], ExportChoices(), quantized=True)
    assert chosen.backend.unit == "cpu"


def test_where_nothing_computes_on_integers_a_quantized_model_runs_all_the_same():
    (chosen,) = choose_for(load_profile("iphone-15"), ["coreml"], ExportChoices(), quantized=True)
    assert (chosen.backend.unit, chosen.choices.precision) == ("npu", "fp16")
