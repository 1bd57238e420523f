"""Core ML: the Program's graph as an ML Program package that describes itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from pydantic import JsonValue

from edgevit import extras
from edgevit.errors import EdgevitError, closest
from edgevit.export import metadata
from edgevit.export.coreml_artefact import CoremlArtefact, first_line
from edgevit.export.coreml_entry import PROBABILITIES_NAME, classifies, for_image_input, graph_std
from edgevit.export.coreml_quantized import (
    check_possible,
    expected_parameters,
    parameters_in,
    weight_types,
    with_float_biases,
)
from edgevit.export.coreml_shims import converter_shims, decompositions, exact_passes
from edgevit.export.formats import MinimumIos
from edgevit.export.metadata import CARD_KEY, ArtefactInfo
from edgevit.export.mil import load_package
from edgevit.export.mil.package import seal_package
from edgevit.export.mil.quiet import quiet_coremltools
from edgevit.export.quantized import (
    check_same,
    describe,
    has_activations,
    saturate_narrow_grids,
    store_constants,
)
from edgevit.extras import version_of
from edgevit.files import sha256_of, size_of
from edgevit.graph.card import Card, Preprocessing
from edgevit.graph.program import Program
from edgevit.graph.rewrites import prepare_for_export
from edgevit.graph.rewrites.group_norm import group_norm_to_layer_norm
from edgevit.graph.rewrites.resize_to_matmul import resize_to_matmul
from edgevit.quant.insertion import is_quantized

Precision = Literal["fp16", "fp32"]
Inputs = Literal["image", "tensor"]

INPUT_NAME = "image"
LABEL_NAME = "classLabel"
# Written by coremltools beside the model for another runtime's debugger; nothing reads it on a device.
_DEBUG_FILE = "executorch_debug_handle_mapping.json"


def to_coreml(
    program: Program,
    path: Path,
    *,
    precision: Precision = "fp16",
    minimum_ios: MinimumIos | None = None,
    inputs: Inputs | None = None,
) -> ArtefactInfo:
    """Write an ML Program package for one image, with the card in its metadata.

    With ``inputs="image"`` the package takes an 8-bit RGB (or grey) image of the card's size and
    normalises it itself; where the card has labels, the package is also a classifier, which gives
    the best label and every label's probability beside the logits. With ``inputs="tensor"`` it takes
    the array that the card's preprocessing makes, and returns the program's outputs only: the only
    way for video, whose clips are no image.

    Args:
        program: what to export.
        path: the ``.mlpackage`` to write.
        precision: of weights and arithmetic; the logits are float32 either way.
        minimum_ios: the oldest iOS that can run it (16 = macOS 13, 17 = macOS 14, 18 = macOS 15);
            a newer one has more operations, attention among them from 18. None is the oldest that has
            what the program needs: 16, and 17 for a program with quantized activations.
        inputs: "image" or "tensor"; None is "image", and "tensor" for video.

    Returns:
        What the package holds.

    Raises:
        EdgevitError: when an option is unknown, the program is a stage of a model, or the graph cannot be
            written as an ML Program.
        MissingDependencyError: without the ``coreml`` extra.
    """
    if minimum_ios is None:
        minimum_ios = "17" if has_activations(program) else "16"
    _check_choice("precision", precision, get_args(Precision))
    _check_choice("minimum_ios", minimum_ios, get_args(MinimumIos))
    if program.card.stage is not None:
        raise EdgevitError(
            f"--to coreml: {program.card.name}: this is stage {program.card.stage} of it, and stages are "
            "written as onnx or tflite"
        )
    inputs = _input_kind(program.card.preprocessing, inputs)
    if path.suffix != ".mlpackage":
        raise EdgevitError(f"{path}: a Core ML package is saved as .mlpackage")
    extras.require("coreml", "Core ML export")
    if is_quantized(program):
        check_possible(program, minimum_ios)
    given = program
    program = resize_to_matmul(group_norm_to_layer_norm(prepare_for_export(program.with_batch(1))))
    program = with_float_biases(saturate_narrow_grids(store_constants(program)))
    deployed = for_image_input(program) if inputs == "image" else program
    try:
        with quiet_coremltools():
            model = _converted(
                deployed.exported, program.card, precision=precision, minimum_ios=minimum_ios, inputs=inputs
            )
            _describe(model, program.card)
            model.save(str(path))
    # coremltools raises whatever its passes meet: ValueError, NotImplementedError, AssertionError, ...
    except Exception as error:
        raise EdgevitError(
            f"{program.card.name} cannot be written as a Core ML package: {first_line(error)}"
        ) from error
    (path / _DEBUG_FILE).unlink(missing_ok=True)
    seal_package(path)
    options: dict[str, JsonValue] = {"minimum_ios": minimum_ios, "inputs": inputs}
    if is_quantized(given):
        options |= _checked(given, path)
        return _info(path, "int8", {**options, "floats": precision})
    return _info(path, precision, options)


def _checked(program: Program, path: Path) -> dict[str, JsonValue]:
    """What a quantized package holds, after comparing it to the bit with what the Program does."""
    package = load_package(path)
    check_same(expected_parameters(program), parameters_in(package), path.name)
    types: dict[str, JsonValue] = dict(sorted(weight_types(package).items()))
    return {**describe(program), "weights_stored_as": types}


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise EdgevitError(f"{option}: {value!r} is not possible; {closest(str(value), choices)}")


def _input_kind(preprocessing: Preprocessing, inputs: Inputs | None) -> Inputs:
    if inputs is None:
        return "image" if preprocessing.frames is None else "tensor"
    _check_choice("inputs", inputs, get_args(Inputs))
    if inputs == "image" and preprocessing.frames is not None:
        raise EdgevitError(
            f"--coreml-input image: the model takes clips of {preprocessing.frames} frames; pass tensor"
        )
    return inputs


def _scale_and_bias(preprocessing: Preprocessing) -> tuple[float, list[float]]:
    """What an image input multiplies its 0..255 pixels by, and then adds to each channel."""
    std = 1.0 if graph_std(preprocessing) is not None else preprocessing.std[0]
    return 1 / (255 * std), [-mean / std for mean in preprocessing.mean]


def _converted(
    exported: torch.export.ExportedProgram,
    card: Card,
    *,
    precision: Precision,
    minimum_ios: MinimumIos,
    inputs: Inputs,
) -> Any:
    import coremltools as ct

    names, classifier = list(card.outputs), None
    if inputs == "image" and classifies(card):
        names.append(PROBABILITIES_NAME)
        classifier = ct.ClassifierConfig(_distinct(card.labels or ()), LABEL_NAME, PROBABILITIES_NAME)
    with converter_shims():
        return ct.convert(
            exported.run_decompositions(decompositions()),
            convert_to="mlprogram",
            inputs=[_input_type(ct, card.preprocessing, inputs)],
            outputs=[ct.TensorType(name=name, dtype=np.float32) for name in names],
            classifier_config=classifier,
            minimum_deployment_target=getattr(ct.target, f"iOS{minimum_ios}"),
            compute_precision=ct.precision.FLOAT16 if precision == "fp16" else ct.precision.FLOAT32,
            pass_pipeline=exact_passes(),
            skip_model_load=True,
        )


def _distinct(labels: tuple[str, ...]) -> list[str]:
    """Labels as keys of a dictionary: those that occur twice (ImageNet's two cranes) with their class."""
    counts = Counter(labels)
    return [label if counts[label] == 1 else f"{label} ({place})" for place, label in enumerate(labels)]


def _input_type(ct: Any, preprocessing: Preprocessing, inputs: Inputs) -> Any:
    shape = (1, *preprocessing.input_shape)
    if inputs == "tensor":
        return ct.TensorType(name=INPUT_NAME, shape=shape, dtype=np.float32)
    scale, bias = _scale_and_bias(preprocessing)
    grey = preprocessing.channels == 1
    return ct.ImageType(
        name=INPUT_NAME,
        shape=shape,
        scale=scale,
        bias=bias[0] if grey else bias,
        color_layout=ct.colorlayout.GRAYSCALE if grey else ct.colorlayout.RGB,
    )


def _describe(model: Any, card: Card) -> None:
    model.short_description = f"{card.name}: {card.preprocessing.describe()}"
    model.author = f"edgevit {version_of('edgevit') or ''}".strip()
    model.license = card.licence or ""
    model.user_defined_metadata[CARD_KEY] = card.model_dump_json()


def _info(path: Path, precision: metadata.Precision, options: Mapping[str, JsonValue]) -> ArtefactInfo:
    artefact = CoremlArtefact.open(path)
    return ArtefactInfo(
        format="coreml",
        precision=precision,
        sha256=sha256_of(path),
        bytes=size_of(path),
        inputs=(artefact.input,),
        outputs=artefact.outputs,
        options={**options, "batch": 1},
        tools={name: version_of(name) or "" for name in ("edgevit", "torch", "coremltools")},
    )
