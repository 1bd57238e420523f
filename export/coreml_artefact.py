"""A Core ML package, opened and run: by Core ML on macOS, by the reference evaluator elsewhere."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.errors import EdgevitError
from edgevit.export.metadata import CARD_KEY, TensorInfo, required_card
from edgevit.export.mil import MilProgram, Package, load_program, read_package
from edgevit.export.mil.quiet import quiet_coremltools
from edgevit.graph.card import Card, Preprocessing
from edgevit.graph.program import run_in_batches

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class CoremlArtefact:
    """A Core ML package, open in Core ML on macOS and in the reference evaluator elsewhere.

    A package with an image input runs in the reference evaluator on macOS too: what is run here are
    prepared images, whose pixels need not be whole numbers, and Core ML's own call takes 8-bit
    pixels only.

    Attributes:
        path: the ``.mlpackage``.
        program: the program that is in it, as the reference evaluator reads it.
        model: the package loaded by Core ML, where that is what runs it.
        input: its one input.
        outputs: its tensor outputs, the card's first; a classifier's label and probabilities aside.
        embedded_card: the card in its metadata.
        takes_image: whether the input is an image rather than an array.
        runtime: what runs it.
    """

    path: Path
    program: MilProgram
    model: Any
    input: TensorInfo
    outputs: tuple[TensorInfo, ...]
    embedded_card: Card | None
    takes_image: bool
    runtime: str

    @classmethod
    def open(cls, path: Path) -> CoremlArtefact:
        """Load the package.

        Raises:
            EdgevitError: when it is damaged, refers outside itself, does not take exactly one image or
                array, or has an operation that the reference evaluator does not know.
            MissingDependencyError: without the ``coreml`` extra.
        """
        package = read_package(path)
        program = load_program(package)
        takes_image = _takes_image(package)
        model = None if takes_image or platform.system() != "Darwin" else _loaded(path)
        card = package.metadata.get(CARD_KEY)
        return cls(
            path=path,
            program=program,
            model=model,
            input=_input_info(program, takes_image=takes_image),
            outputs=_output_infos(program),
            embedded_card=None if card is None else Card.from_json(card, str(path)),
            takes_image=takes_image,
            runtime="coreml reference evaluator" if model is None else f"Core ML {platform.mac_ver()[0]}",
        )

    @property
    def card(self) -> Card:
        """The card inside the package.

        Raises:
            EdgevitError: when it has none, being of another tool's making.
        """
        return required_card(self.embedded_card, self.path)

    @property
    def num_classes(self) -> int:
        """Classes of the first output."""
        return int(self.outputs[0].shape[-1])

    @property
    def batch(self) -> int:
        """The fixed batch size."""
        return int(self.input.shape[0])

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The one input."""
        return (self.input,)

    def run(self, *inputs: Array) -> list[Array]:
        """Outputs for prepared images (n, channels, height, width) float32, any n.

        Where the package takes images, the preparation is undone first, so that its own normalisation
        is part of what runs; the pixels stay fractions where they are, not rounded to 8 bits.
        """
        (images,) = inputs
        given = _pixels(images, self.card.preprocessing) if self.takes_image else images
        return run_in_batches(self._run_batch, given, batch=self.batch, fixed=True)

    def _run_batch(self, batch: Array) -> list[Array]:
        feed = {self.input.name: batch}
        results = self.program.evaluate(feed) if self.model is None else self.model.predict(feed)
        return [np.asarray(results[output.name], dtype=np.float32) for output in self.outputs]


def _pixels(images: Array, preprocessing: Preprocessing) -> Array:
    """Prepared images as the 0..255 values they were prepared from, in double precision on the way."""
    mean, std = (np.reshape(values, (-1, 1, 1)) for values in (preprocessing.mean, preprocessing.std))
    pixels: Array = ((images * std + mean) * 255).astype(np.float32)
    return pixels


def _takes_image(package: Package) -> bool:
    inputs = package.spec.description.input
    if len(inputs) != 1:
        raise EdgevitError(f"{package.path} has {len(inputs)} inputs; one image is expected")
    if inputs[0].type.WhichOneof("Type") != "imageType":
        return False
    layout = inputs[0].type.imageType.ColorSpace.Name(inputs[0].type.imageType.colorSpace)
    if layout not in ("RGB", "GRAYSCALE"):
        raise EdgevitError(f"{package.path} takes {layout} images; RGB or GRAYSCALE is expected")
    return True


def _loaded(path: Path) -> Any:
    with quiet_coremltools():
        import coremltools as ct

        try:
            return ct.models.MLModel(str(path))
        # Core ML reports a package it cannot compile as a RuntimeError, or as an NSException's stand-in.
        except Exception as error:
            raise EdgevitError(f"{path} cannot be loaded by Core ML: {first_line(error)}") from error


def _input_info(program: MilProgram, *, takes_image: bool) -> TensorInfo:
    (variable,) = program.inputs
    if variable.type is None:
        raise EdgevitError(f"{program.path}: its input {variable.name!r} is no tensor")
    dtype = "uint8" if takes_image else _plain_dtype(variable.type.dtype)
    return TensorInfo(name=variable.name, shape=variable.type.shape, dtype=dtype)


def _output_infos(program: MilProgram) -> tuple[TensorInfo, ...]:
    infos = tuple(
        TensorInfo(name=item.name, shape=item.type.shape, dtype=_plain_dtype(item.type.dtype))
        for item in program.outputs
        if item.type is not None
    )
    if not infos:
        raise EdgevitError(f"{program.path} returns no tensor, only a classifier's label and probabilities")
    return infos


def _plain_dtype(dtype: str) -> str:
    return {"fp16": "float16", "fp32": "float32"}.get(dtype, dtype)


def first_line(error: BaseException) -> str:
    """The first line of an error's message that says something, or else its kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
