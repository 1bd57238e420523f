"""The shape of a placement table: what one backend takes, on what conditions, and who says so."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from edgevit.errors import closest
from edgevit.profiles.documents import Strict, Text, Url, fault
from edgevit.profiles.schema import READS, Citations, RuntimeName, Unit

TABLE_VERSION = 1

Number = Annotated[int, Field(ge=0, strict=True)]


def _slot(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


# Inputs are numbered where the format does not name them.
SlotName = Annotated[str, BeforeValidator(_slot)]
Allowed = Annotated[tuple[StrictStr | StrictBool | StrictInt | StrictFloat, ...], Field(min_length=1)]
Dtype = Literal[
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "int4", "uint64",
    "uint32", "uint16", "uint8", "uint4", "bool", "string",
]  # fmt: skip


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Dtypes = Annotated[tuple[Dtype, ...], BeforeValidator(_as_list), Field(min_length=1)]


class Needs(Strict):
    """Conditions on an operator; one that is left out is not set.

    Attributes:
        inputs: types of the inputs that are not constant.
        outputs: types of the outputs.
        min_rank: least dimensions of what flows through it: outputs, and inputs that are not constant.
        max_rank: most dimensions of the same.
        ranks: dimensions that single inputs must have.
        static: whether the sizes of the same must be fixed.
        innermost: only so many innermost dimensions of the same may be larger than 1.
        given: inputs that must be there.
        constant: inputs that must be constant where they are given.
        live: inputs that must not be constant.
        every: for constant inputs, the one value that all their elements must have.
        without: for constant inputs, the one value that none of their elements may have.
        one_of: for constant inputs, the lists of values that they may hold.
        attributes: the values that attributes may have where they are set.
        max_inputs: most inputs.
        max_outputs: most outputs.
    """

    inputs: Dtypes | None = None
    outputs: Dtypes | None = None
    min_rank: Number | None = None
    max_rank: Number | None = None
    ranks: dict[SlotName, Number] = Field(default_factory=dict)
    static: StrictBool = False
    innermost: Number | None = None
    given: tuple[SlotName, ...] = ()
    constant: tuple[SlotName, ...] = ()
    live: tuple[SlotName, ...] = ()
    every: dict[SlotName, StrictInt | StrictFloat] = Field(default_factory=dict)
    without: dict[SlotName, StrictInt | StrictFloat] = Field(default_factory=dict)
    one_of: dict[SlotName, tuple[tuple[StrictInt, ...], ...]] = Field(default_factory=dict)
    attributes: dict[Text, Allowed] = Field(default_factory=dict)
    max_inputs: Number | None = None
    max_outputs: Number | None = None


class Rule(Needs):
    """Operators that are taken on the same conditions, or refused for a stated reason.

    An operator named by several rules is taken when it meets the conditions of one of them.

    Attributes:
        operators: their kinds.
        refused: why they are never taken, for operators that would be otherwise.
        source: keys of the table's `sources`, where they are others than the table's own `source`.
    """

    operators: Citations
    refused: Text | None = None
    source: Citations | None = None


class Otherwise(Strict):
    """What becomes of an operator that is not taken.

    Attributes:
        reason: what is said of one that no rule names.
        runs: what runs it instead, in words.
        unit: the unit that then runs it; None where nothing does.
    """

    reason: Text
    runs: Text
    unit: Unit | None


class TableSource(Strict):
    """Where a fact was read, or how it was measured."""

    title: Text
    url: Url | None = None


class Table(Strict):
    """What one backend takes.

    Attributes:
        version: of this layout.
        runtime: as in device profiles.
        via: as in device profiles; several where they share one list.
        unit: what computes.
        release: the version of the runtime that the facts are of.
        basis: ``datasheet`` for what the maker of the runtime publishes, in documents or source code;
            ``measurement`` for what was found by running it; ``estimate`` where the maker publishes no
            list and only some facts are known.
        unlisted: whether operators that no rule names are taken.
        partitions: which of the taken runs of operators it runs: ``any``; only the ``first``; or
            ``whole``, where one operator that is not taken keeps the file from loading.
        limits: conditions on every operator.
        otherwise: what becomes of the others.
        source: keys of `sources` for all that has no other.
        rules: operators with their conditions.
        sources: what was read or done.
    """

    version: Literal[1]
    runtime: RuntimeName
    via: Citations
    unit: Unit
    release: Text
    basis: Literal["datasheet", "measurement", "estimate"]
    unlisted: Literal["refuse", "take"] = "refuse"
    partitions: Literal["any", "first", "whole"] = "any"
    limits: Needs = Field(default_factory=Needs)
    otherwise: Otherwise
    source: Citations
    rules: tuple[Rule, ...] = ()
    sources: dict[str, TableSource]

    @property
    def format(self) -> str:
        """The format of the files that its runtime reads."""
        return next(format_ for format_, runtimes in READS.items() if self.runtime in runtimes)

    @model_validator(mode="after")
    def _facts_and_sources_meet(self) -> Table:
        cited = [("source",), *((("rules", place, "source")) for place in range(len(self.rules)))]
        groups = [self.source, *(rule.source or () for rule in self.rules)]
        for loc, keys in zip(cited, groups, strict=True):
            for key in keys:
                if key not in self.sources:
                    raise fault(loc, f'"{key}" is not in sources; {closest(key, self.sources)}')
        unused = set(self.sources) - {key for keys in groups for key in keys}
        if unused:
            raise fault(("sources", min(unused)), "no fact cites this source; cite it or remove it")
        return self

    @model_validator(mode="after")
    def _something_is_taken(self) -> Table:
        if self.unlisted == "refuse" and not self.rules:
            raise fault(("rules",), "missing; a table that refuses what it does not list needs rules")
        return self
