"""What was measured on a device: operators in each runtime, memory, links."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgevit.profiles.documents import Strict, Text, fault

MEASURED_VERSION = 2

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Number = Annotated[int, Field(ge=0)]


class MeasuredOperator(Strict):
    """An operator of one shape, and how long one run of it takes inside a model.

    `kind` is the runtime's name with what else decides which kernel runs. `macs` are
    multiply-accumulates; `read`, `written` and `weights` bytes, `resident` those of all weights of the
    model. `families` are those of the models that have it.
    """

    kind: Text
    macs: Number = 0
    read: Number = 0
    written: Number = 0
    weights: Number = 0
    resident: Number = 0
    us: Positive
    families: Annotated[tuple[Text, ...], Field(min_length=1)]


class MeasuredModel(Strict):
    """A whole model, measured, and predicted from the operators of the other families alone."""

    name: Text
    family: Text
    precision: Literal["fp32", "int8"]
    us: Positive
    predicted_us: Positive


class MeasuredRuntime(Strict):
    """Operators in one runtime, on so many threads."""

    runtime: Literal["onnxruntime", "litert"]
    release: Text
    threads: Annotated[int, Field(ge=1)]
    models: tuple[MeasuredModel, ...] = ()
    operators: Annotated[tuple[MeasuredOperator, ...], Field(min_length=1)]


class MeasuredLink(Strict):
    """How fast bytes pass from this machine to another, and how long an empty message is on its way."""

    to: Text
    bytes_per_second: Positive


class Measurements(Strict):
    """What `edgevit profile --suite` measured.

    `partial` says why it ended before its end, where it did.
    """

    version: Literal[2]
    partial: Text | None = None
    memory_bytes_per_second: Positive | None = None
    links: tuple[MeasuredLink, ...] = ()
    runtimes: tuple[MeasuredRuntime, ...] = ()

    @model_validator(mode="after")
    def _each_once(self) -> Measurements:
        seen: set[str] = set()
        for place, table in enumerate(self.runtimes):
            if table.runtime in seen:
                raise fault(("runtimes", place, "runtime"), f'"{table.runtime}" is there already; keep one')
            seen.add(table.runtime)
        return self

    def of(self, runtime: str) -> MeasuredRuntime | None:
        """The operators of a runtime; None where none were measured."""
        return next((table for table in self.runtimes if table.runtime == runtime), None)
