"""The formats: the file each is written to, what writes it, what runs it, and the choices it knows."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from edgevit.errors import EdgevitError, closest
from edgevit.export.metadata import ArtefactInfo, TensorInfo
from edgevit.graph.card import Card
from edgevit.graph.program import Program

Array = npt.NDArray[np.float32]

# Oldest iOS of a Core ML package: 16 = macOS 13, 17 = macOS 14, 18 = macOS 15.
MinimumIos = Literal["16", "17", "18"]


class Artefact(Protocol):
    """An exported file, open in its own runtime."""

    @property
    def path(self) -> Path:
        """The file or package."""

    @property
    def card(self) -> Card:
        """The card inside it."""

    @property
    def runtime(self) -> str:
        """What runs it."""

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """What `run` takes: images, (batch, channels, height, width), or the tensors of a stage."""

    @property
    def num_classes(self) -> int:
        """Classes of the first output."""

    def run(self, *inputs: Array) -> list[Array]:
        """Outputs for any number of prepared images, or of what a stage takes."""


@dataclass(frozen=True)
class ExportChoices:
    """What may be said about an export; None leaves it to the format.

    Attributes:
        batch: images per run (ONNX): a number, or "dynamic". Default 1, which the other formats have.
        precision: "fp32" or "fp16" (ONNX and TFLite, default fp32; Core ML, default fp16).
        opset: 20, 23 or "fastest" of the two (ONNX). Default 20.
        optimize: "ort" fuses operators into ONNX Runtime's own (ONNX).
        check_opencv: also run the file in OpenCV's dnn and say what came of it (ONNX).
        layout: of the input, "nchw" or "nhwc" (TFLite). Default "nchw".
        integer_io: let a quantized model take and give integers (TFLite). Default float32.
        coreml_input: "image" or "tensor" (Core ML). Default "image".
        minimum_ios: "16", "17" or "18" (Core ML). Default "16", and "17" for quantized activations.
    """

    batch: int | str | None = None
    precision: str | None = None
    opset: int | str | None = None
    optimize: str | None = None
    check_opencv: bool | None = None
    layout: str | None = None
    integer_io: bool | None = None
    coreml_input: str | None = None
    minimum_ios: str | None = None

    def or_else(self, other: ExportChoices) -> ExportChoices:
        """These choices, and those of `other` where none was made here."""
        return ExportChoices(**{**vars(other), **self.given()})

    def given(self) -> dict[str, int | str]:
        """The choices that were made."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        file: what it is written to, in an export's folder.
        extra: the extra that brings its libraries.
        choices: option of its writer by the name of the choice that sets it.
        writer: ``module:function`` that writes it, imported when it is used.
        opener: ``module:class`` whose `open` reads it.
    """

    file: str
    extra: str
    choices: dict[str, str]
    writer: str
    opener: str

    def export(self, program: Program, path: Path, choices: ExportChoices) -> ArtefactInfo:
        """Write `program` as the choices say, of those that this format knows."""
        given = choices.given()
        options = {option: given[name] for name, option in self.choices.items() if name in given}
        info: ArtefactInfo = _imported(self.writer)(program, path, **options)
        return info

    def open(self, path: Path) -> Artefact:
        """Open a file of this format in its own runtime."""
        artefact: Artefact = _imported(self.opener).open(path)
        return artefact


def _imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


FORMATS: dict[str, Format] = {
    "onnx": Format(
        file="model.onnx",
        extra="onnx",
        choices={name: name for name in ("batch", "precision", "opset", "optimize", "check_opencv")},
        writer="edgevit.export.onnx:to_onnx",
        opener="edgevit.export.onnx:OnnxArtefact",
    ),
    "tflite": Format(
        file="model.tflite",
        extra="tflite",
        choices={name: name for name in ("precision", "layout", "integer_io")},
        writer="edgevit.export.tflite:to_tflite",
        opener="edgevit.export.tflite:TfliteArtefact",
    ),
    "coreml": Format(
        file="model.mlpackage",
        extra="coreml",
        choices={"precision": "precision", "coreml_input": "inputs", "minimum_ios": "minimum_ios"},
        writer="edgevit.export.coreml:to_coreml",
        opener="edgevit.export.coreml_artefact:CoremlArtefact",
    ),
}


def check_formats(names: Sequence[str], choices: ExportChoices) -> list[Format]:
    """The formats, if all are known, none is named twice, and each choice means something to one.

    Raises:
        EdgevitError: naming the format or choice that is not.
    """
    for name in names:
        if name not in FORMATS:
            raise EdgevitError(f"--to: {name!r} is no format; {closest(name, FORMATS)}")
    if len(set(names)) != len(names) or not names:
        raise EdgevitError(f"--to: {','.join(names)!r}; name each format once")
    chosen = [FORMATS[name] for name in names]
    for choice in choices.given():
        if not any(choice in format_.choices for format_ in chosen):
            able = [name for name, format_ in FORMATS.items() if choice in format_.choices]
            raise EdgevitError(
                f"--{choice.replace('_', '-')} means nothing to {', '.join(names)}; "
                f"it is for {', '.join(able)}"
            )
    return chosen
