"""Whether a backend takes an operator, and if not, why: pure functions of a table and a record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from edgevit.export.placement.operators import Operand, Operator
from edgevit.export.placement.schema import Needs, Table


def refusal(table: Table, operator: Operator) -> str | None:
    """Why a backend does not take an operator; None when it does.

    The conditions of every operator come first. Of several rules that name the operator, the reason
    of the first is given.
    """
    rules = [rule for rule in table.rules if operator.kind in rule.operators]
    if not rules:
        return unmet(table.limits, operator) if table.unlisted == "take" else table.otherwise.reason
    general = unmet(table.limits, operator)
    if general is not None:
        return general
    reasons = [rule.refused or unmet(rule, operator) for rule in rules]
    return None if None in reasons else reasons[0]


def unmet(needs: Needs, operator: Operator) -> str | None:
    """The first condition that an operator does not meet, in words; None when it meets all."""
    return next(_unmet(needs, operator), None)


def _unmet(needs: Needs, operator: Operator) -> Iterator[str]:
    live = [operand for operand in operator.inputs if not operand.constant]
    yield from _types("input", needs.inputs, live)
    yield from _types("output", needs.outputs, operator.outputs)
    yield from _ranks(needs, operator.data)
    yield from _input_ranks(needs, operator)
    yield from _shapes(needs, operator.data)
    yield from _slots(needs, {operand.slot: operand for operand in operator.inputs})
    yield from _values(needs, operator)
    for name, allowed in needs.attributes.items():
        value = operator.attributes.get(name)
        if value is not None and value not in allowed:
            yield f"{name} {value}, not {_list(allowed)}"
    if needs.max_inputs is not None and len(operator.inputs) > needs.max_inputs:
        yield f"{len(operator.inputs)} inputs > {needs.max_inputs}"
    if needs.max_outputs is not None and len(operator.outputs) > needs.max_outputs:
        yield f"{len(operator.outputs)} outputs > {needs.max_outputs}"


def _types(what: str, allowed: tuple[str, ...] | None, operands: Iterable[Operand]) -> Iterator[str]:
    for operand in operands:
        if allowed is not None and operand.dtype not in allowed:
            yield f"{what} is {operand.dtype}, not {_list(allowed)}"


def _ranks(needs: Needs, operands: Iterable[Operand]) -> Iterator[str]:
    if needs.min_rank is None and needs.max_rank is None:
        return
    for operand in operands:
        if operand.shape is None:
            yield "its rank is not known"
        elif needs.max_rank is not None and len(operand.shape) > needs.max_rank:
            yield f"rank {len(operand.shape)} > {needs.max_rank}"
        elif needs.min_rank is not None and len(operand.shape) < needs.min_rank:
            yield f"rank {len(operand.shape)} < {needs.min_rank}"


def _shapes(needs: Needs, operands: Iterable[Operand]) -> Iterator[str]:
    for operand in operands:
        if needs.static and (operand.shape is None or None in operand.shape):
            yield "its shape is not fixed"
        outer = (operand.shape or ())[: -needs.innermost] if needs.innermost else ()
        if any(size != 1 for size in outer):
            yield f"more than the innermost {needs.innermost} dimensions are larger than 1"


def _slots(needs: Needs, operands: dict[str, Operand]) -> Iterator[str]:
    for slot in needs.given:
        if slot not in operands:
            yield f"{_named(slot)} is left out"
    for slot in needs.constant:
        if slot in operands and not operands[slot].constant:
            yield f"{_named(slot)} is not constant"
    for slot in needs.live:
        if slot in operands and operands[slot].constant:
            yield f"{_named(slot)} is constant"


def _input_ranks(needs: Needs, operator: Operator) -> Iterator[str]:
    for operand in operator.inputs:
        rank = None if operand.shape is None else len(operand.shape)
        wanted = needs.ranks.get(operand.slot, rank)
        if rank != wanted:
            yield f"{_named(operand.slot)} has rank {'unknown' if rank is None else rank}, not {wanted}"


def _values(needs: Needs, operator: Operator) -> Iterator[str]:
    for operand in operator.inputs:
        found = "not known" if operand.values is None else _list(operand.values)
        values = operand.values or ()
        every, without = needs.every.get(operand.slot), needs.without.get(operand.slot)
        if every is not None and (operand.values is None or set(values) - {every}):
            yield f"{_named(operand.slot)} is {found}, not all {every}"
        if without is not None and (operand.values is None or without in values):
            yield f"{_named(operand.slot)} is {found}, not free of {without}"
        if operand.slot in needs.one_of and operand.values not in needs.one_of[operand.slot]:
            yield f"{_named(operand.slot)} is {found}"


def _named(slot: str) -> str:
    return f"input {slot}"


def _list(words: Iterable[object]) -> str:
    return ", ".join(map(str, words))
