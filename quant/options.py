"""What a quantization is asked for, and what of that is refused before any work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from edgevit.errors import EdgevitError, closest
from edgevit.graph.program import Program
from edgevit.quant.insertion import is_quantized
from edgevit.quant.learning import LearningOptions
from edgevit.quant.precision import bit_widths
from edgevit.quant.ranges import Granularity, SchemeChoice

Method = Literal["minmax", "hessian", "reconstruct"]
Engine = Literal["edgevit", "nncf"]
Fallback = Literal["int16", "float"]


@dataclass(frozen=True)
class QuantizeOptions:
    """What a quantization is asked for; `quantize` has the same options.

    Attributes:
        precision: of `edgevit.quant.precision.BIT_WIDTHS`.
        method: "minmax" covers what was seen; "hessian" searches as Q-HyViT does; "reconstruct" learns.
        granularity: of weight scales, "channel", "tensor" or "auto".
        scheme: of activation grids, "auto", "sym" or "asym".
        placement: of `edgevit.quant.placing.PLACEMENTS`; None takes the one for the precision.
        exclude: patterns of layers that stay float.
        max_drop: points of accuracy that may be lost on the calibration images; None sets no floor.
        iterations: of learning, for each block.
        seed: of everything drawn by chance.
        engine: "edgevit", or "nncf", to which `method`, `placement` and `iterations` mean nothing.
        fallback: "int16" or "float", what layers become first where more than `max_drop` is lost; None
            takes "int16" with placement "full" and at most 8 bits, "float" otherwise.
        spare: whether layers that do much damage and save little are left float.
    """

    precision: str = "w8a8"
    method: Method = "reconstruct"
    granularity: Granularity = "auto"
    scheme: SchemeChoice = "auto"
    placement: str | None = None
    exclude: tuple[str, ...] = ()
    max_drop: float | None = None
    iterations: int = LearningOptions.iterations
    seed: int = 0
    engine: Engine = "edgevit"
    fallback: Fallback | None = None
    spare: bool = True

    @property
    def widens(self) -> bool:
        """Whether layers get 16-bit activations before any goes back to float."""
        if self.fallback is not None:
            return self.fallback == "int16"
        bits = bit_widths(self.precision).activations
        return self.placement == "full" and bits is not None and bits <= 8


def check_options(program: Program, options: QuantizeOptions) -> None:
    """Refuse what can be refused before any work.

    Raises:
        EdgevitError: naming the option, or what about the program, is wrong.
    """
    bits = bit_widths(options.precision)
    for option, value, choices in (
        ("--engine", options.engine, get_args(Engine)),
        ("--method", options.method, get_args(Method)),
        ("--granularity", options.granularity, get_args(Granularity)),
        ("--scheme", options.scheme, get_args(SchemeChoice)),
    ):
        if value not in choices:
            raise EdgevitError(f"{option}: {value!r} is unknown; {closest(value, choices)}")
    if options.max_drop is not None and options.max_drop < 0:
        raise EdgevitError(
            f"--max-drop: {options.max_drop} is negative; give points of accuracy, such as 0.5"
        )
    if options.iterations < 1:
        raise EdgevitError(f"--iterations: {options.iterations}; at least 1 is needed")
    if bits.activations is None and options.placement is not None:
        raise EdgevitError(
            f"--placement {options.placement}: {options.precision} leaves activations float; leave it out"
        )
    _check_fallback(options)
    if is_quantized(program):
        raise EdgevitError(f"{program.card.name} is quantized already; start from the float program")
    if program.batch is not None:
        raise EdgevitError(
            f"{program.card.name} was captured for a batch of {program.batch}; "
            "capture it with a dynamic batch"
        )


def _check_fallback(options: QuantizeOptions) -> None:
    if options.fallback is None:
        return
    if options.fallback not in get_args(Fallback):
        raise EdgevitError(
            f"--fallback: {options.fallback!r} is unknown; {closest(options.fallback, get_args(Fallback))}"
        )
    if options.max_drop is None:
        raise EdgevitError(
            f"--fallback {options.fallback}: without --max-drop no layer falls back; give it too, or neither"
        )
    bits = bit_widths(options.precision).activations
    if options.fallback == "int16" and (bits is None or bits == 16):
        found = "leaves activations float" if bits is None else "has 16-bit activations already"
        raise EdgevitError(f"--fallback int16: {options.precision} {found}; leave it out")
