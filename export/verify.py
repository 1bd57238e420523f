"""Verification: the artefact, run in its own runtime, against the Program it was made from.

What passes for a float Program follows from its precision (`TOLERANCES`). For a quantized one, whose stored
integers and scales every exporter has compared to the bit already, an output may differ by what its floats
explain and, besides, as much as the Program's own output moves when its quantizers round otherwise (see
`edgevit.export.rounding`): runtimes do not round alike between two grids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from edgevit.errors import EdgevitError
from edgevit.evaluation import Runnable, percent
from edgevit.export.artefacts import metadata_of, open_artefact
from edgevit.export.metadata import ArtefactInfo
from edgevit.export.rounding import output_steps, rounded_otherwise
from edgevit.graph.card import IMAGE, Preprocessing
from edgevit.graph.crossing import grid_of
from edgevit.graph.program import Program
from edgevit.images import ImageReader, OnBadImage, open_folder
from edgevit.quant.insertion import is_quantized

Array = npt.NDArray[np.float32]

# Largest difference over largest value that each precision's arithmetic explains.
TOLERANCES: dict[str, float] = {"fp32": 1e-5, "fp16": 5e-3}


@dataclass(frozen=True)
class OutputParity:
    """How one output of the artefact compares with the Program's on the same inputs.

    Attributes:
        name: the output.
        max_abs: largest absolute difference; None where a value was not finite.
        rel: `max_abs` over the Program's largest absolute value; None likewise.
        cosine: cosine of the angle between the two, flattened.
        snr_db: signal power over difference power in decibels; None where they are equal to the bit.
        top1_agreement: percent of inputs with the same best class; None where the output is no logits.
        tolerance: the largest `rel` that passes.
        passed: whether it does.
        rounding: the part of the tolerance that is for rounding between grids; None for a float Program.
    """

    name: str
    max_abs: float | None
    rel: float | None
    cosine: float | None
    snr_db: float | None
    top1_agreement: float | None
    tolerance: float
    passed: bool
    rounding: float | None = None

    def explain(self) -> str:
        """One line for people."""
        if self.rel is None:
            return f"{self.name}: the artefact's values are not finite (NaN or infinity)"
        snr = "equal to the bit" if self.snr_db is None else f"SNR {self.snr_db:.0f} dB"
        agreement = "" if self.top1_agreement is None else f", same best class {self.top1_agreement:.1f} %"
        why = "" if self.rounding is None else ": as far as rounding otherwise moves it"
        return (
            f"{self.name}: largest difference {self.rel:.1e} of the largest value "
            f"(tolerance {self.tolerance:.0e}{why}), cosine {self.cosine:.6f}, {snr}{agreement}"
        )


@dataclass(frozen=True)
class Verification:
    """The verdict over all outputs.

    Attributes:
        artefact: the file that was run.
        runtime: what ran it.
        inputs: what it was run on, in words.
        n: number of inputs.
        outputs: one comparison per output.
    """

    artefact: str
    runtime: str
    inputs: str
    n: int
    outputs: tuple[OutputParity, ...]

    @property
    def passed(self) -> bool:
        """Whether every output is within tolerance."""
        return all(output.passed for output in self.outputs)


def verify(
    artefact: str | Path,
    *,
    against: str | Path | Program,
    data: str | Path | None = None,
    samples: int = 16,
    tolerance: float | None = None,
    on_bad_image: OnBadImage = "fail",
) -> Verification:
    """Run an artefact and the Program it came from on the same inputs and compare every output.

    Args:
        artefact: the exported file.
        against: the Program, or its ``.pt2``.
        data: a folder of images to run; None runs noise with a fixed seed.
        samples: number of inputs.
        tolerance: largest relative difference that passes; None takes that of the precision which the
            ``metadata.json`` beside the artefact states, and of float32 where there is none, and for a
            quantized Program what rounding otherwise does to it besides.
        on_bad_image: what to do about unusable files in `data`.

    Raises:
        EdgevitError: when either cannot be opened, or their shapes differ.
    """
    if samples < 1:
        raise EdgevitError(f"--samples: {samples}; at least 1 is needed")
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance > 0):
        raise EdgevitError(f"--tolerance: {tolerance}; a number above 0 is needed")
    program = against if isinstance(against, Program) else Program.load(against)
    info = metadata_of(Path(artefact))
    opened = open_artefact(artefact)
    inputs, described = _inputs(program, data, samples, on_bad_image)
    found = _described([tensor.shape for tensor in opened.inputs])
    expected = _described([array.shape for array in inputs])
    if found != expected:
        raise EdgevitError(
            f"{artefact} takes {found}, {program.card.name} takes {expected}: "
            "it was not made from this program"
        )
    return compare(
        opened,
        program,
        *inputs,
        described=described,
        tolerance=tolerance or TOLERANCES[_precision_of_floats(info)],
        name=str(artefact),
        rounding=tolerance is None and is_quantized(program),
    )


def _precision_of_floats(info: ArtefactInfo | None) -> str:
    if info is None:
        return "fp32"
    return info.precision if info.precision in TOLERANCES else str(info.options.get("floats", "fp32"))


def _described(shapes: Sequence[Sequence[object]]) -> str:
    """Shapes without the batch."""
    return ", ".join("x".join(str(size) for size in shape[1:]) for shape in shapes)


def _inputs(
    program: Program, data: str | Path | None, samples: int, on_bad_image: OnBadImage
) -> tuple[tuple[Array, ...], str]:
    if data is None:
        return noise_for(program, samples), "seeded noise"
    if program.card.inputs != (IMAGE,):
        program.card.check_whole()
    folder = open_folder(data).sample(samples)
    reader = ImageReader(folder, program.card.preprocessing, on_bad_image=on_bad_image)
    return (reader.read_all(),), f"images of {data}"


def noise_for(program: Program, count: int) -> tuple[Array, ...]:
    """What a program takes, of noise: images; for the tensors of a stage, values around 0 or any integers."""
    generator = np.random.default_rng(0)
    found = []
    for name, node in zip(program.card.inputs, program.inputs, strict=True):
        value, grid = node.meta["val"], grid_of(node)
        shape = (count, *value.shape[1:])
        if name == IMAGE:
            found.append(noise(program.card.preprocessing, count))
        elif grid is not None:
            integers = generator.integers(grid.smallest, grid.largest, shape, endpoint=True)
            found.append(torch.from_numpy(integers).to(value.dtype).numpy())
        else:
            found.append(generator.standard_normal(shape, dtype=np.float32))
    return tuple(found)


def noise(preprocessing: Preprocessing, count: int, seed: int = 0) -> Array:
    """Prepared images (or clips) of noise: every pixel one of the 256 values that a real one has.

    float16 holds those exactly; a fraction between them would be rounded by an image input, which no
    photograph is.
    """
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *preprocessing.input_shape))
    mean, std = (np.reshape(values, (-1, 1, 1)) for values in (preprocessing.mean, preprocessing.std))
    prepared: Array = ((pixels / 255 - mean) / std).astype(np.float32)
    return prepared


def compare(
    artefact: Runnable,
    program: Program,
    *inputs: Array,
    described: str,
    tolerance: float,
    name: str,
    rounding: bool = False,
) -> Verification:
    """Run both on prepared images, or what a stage takes, and compare every output.

    Args:
        artefact: what is compared.
        program: with what.
        inputs: what both take.
        described: the inputs, in words.
        tolerance: largest relative difference that passes.
        name: of the artefact, for people.
        rounding: whether to add to the tolerance what rounding otherwise does to a quantized program.

    Raises:
        EdgevitError: when the number or the shapes of the outputs differ.
    """
    # Integers of a stage are compared as numbers: their differences are beyond their type.
    actual, expected = (
        [output.astype(np.float32) for output in runnable.run(*inputs)] for runnable in (artefact, program)
    )
    shapes = [[output.shape for output in outputs] for outputs in (actual, expected)]
    if shapes[0] != shapes[1]:
        raise EdgevitError(
            f"{name} returns {shapes[0]}, {program.card.name} returns {shapes[1]}: "
            "it was not made from this program"
        )
    moved: list[float | None] = [None] * len(expected)
    if rounding:
        moved = [*map(_moved, expected, rounded_otherwise(program, *inputs), output_steps(program))]
    return Verification(
        artefact=name,
        runtime=artefact.runtime,
        inputs=described,
        n=len(inputs[0]),
        outputs=tuple(
            _parity(output_name, ours, theirs, tolerance, by, are_classes=program.card.stage is None)
            for output_name, ours, theirs, by in zip(
                program.card.outputs, actual, expected, moved, strict=True
            )
        ),
    )


def _moved(expected: Array, others: list[Array], step: float) -> float:
    """How far rounding otherwise moves an output, relative to its largest value."""
    largest = float(np.abs(expected).max()) or 1.0
    return max(_relative(other, expected) for other in others) + step / largest


def _parity(
    name: str,
    actual: Array,
    expected: Array,
    tolerance: float,
    rounding: float | None,
    *,
    are_classes: bool,
) -> OutputParity:
    agreement = None
    if are_classes and expected.ndim == 2:
        agreement = percent(actual.argmax(axis=1) == expected.argmax(axis=1))
    tolerance += rounding or 0.0
    if not (np.isfinite(actual).all() and np.isfinite(expected).all()):
        return OutputParity(name, None, None, None, None, agreement, tolerance, passed=False)
    ours, theirs = actual.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    difference = ours - theirs
    rel, noise, signal = _relative(actual, expected), float(difference @ difference), float(theirs @ theirs)
    return OutputParity(
        name=name,
        max_abs=float(np.abs(difference).max()),
        rel=rel if math.isfinite(rel) else None,
        cosine=_cosine(ours, theirs),
        snr_db=10 * math.log10(signal / noise) if noise > 0 and signal > 0 else None,
        top1_agreement=agreement,
        tolerance=tolerance,
        passed=rel <= tolerance,
        rounding=rounding,
    )


def _relative(actual: Array, expected: Array) -> float:
    """Largest difference over the largest value expected."""
    max_abs = float(np.abs(actual.astype(np.float64) - expected).max())
    scale = float(np.abs(expected).max())
    # An output that is all zeros has no scale: only zeros equal it.
    return max_abs / scale if scale > 0 else (0.0 if max_abs == 0 else math.inf)


def _cosine(ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64]) -> float:
    lengths = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    if lengths == 0:
        return 1.0 if np.array_equal(ours, theirs) else 0.0
    # Rounding can carry the quotient of equal vectors just past 1.
    return min(1.0, float(ours @ theirs) / lengths)
