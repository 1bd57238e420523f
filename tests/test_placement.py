"""Where operators run: the tables, the conditions, and laws that hold for every file and backend."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.errors import EdgevitError
from edgevit.export.placement import placement
from edgevit.export.placement.analysis import count_runs, place_on
from edgevit.export.placement.match import refusal, unmet
from edgevit.export.placement.operators import Operand, Operator, count_kinds
from edgevit.export.placement.schema import Needs, Table
from edgevit.export.placement.tables import FOLDER, index, read_table, tables
from edgevit.profiles import devices

TABLE = """\
version: 1
runtime: litert
via: Some delegate
unit: npu
release: Some runtime 1.0
basis: estimate
source: page

limits:
  max_rank: 4

otherwise:
  reason: the delegate has no such operator
  runs: the CPU's kernels
  unit: cpu

rules:
  - operators: [CONV_2D]
    inputs: float32
    constant: [1, 2]
  - operators: [CONV_2D]
    inputs: int8
  - operators: TANH
    refused: it is said to be wrong there

sources:
  page:
    title: Some page
    url: https://example.org/page
"""


@pytest.fixture
def table(tmp_path):
    """Reads the table with one passage replaced."""

    def read(old: str = "", new: str = "") -> Table:
        assert old in TABLE
        path = tmp_path / "some-delegate.yaml"
        path.write_text(TABLE.replace(old, new, 1))
        return read_table(path)

    return read


def operand(slot=0, dtype="float32", shape=(1, 4, 4, 8), values=None, *, constant=False):
    return Operand(str(slot), dtype, shape, constant or values is not None, values)


def operator(kind="CONV_2D", inputs=None, outputs=None, **attributes):
    inputs = (operand(), operand(1, constant=True)) if inputs is None else inputs
    return Operator(kind, tuple(inputs), tuple(outputs or (operand(),)), attributes)


def holding(*values):
    """What makes an operator whose second input is a constant of these values."""
    return {"inputs": [operand(), operand(1, values=values)]}


class TestTables:
    @pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
    def test_every_table_loads_and_names_where_each_fact_comes_from(self, path):
        found = read_table(path)
        assert all(source.url or found.basis == "measurement" for source in found.sources.values())
        assert found.unlisted == "refuse" or found.basis == "estimate"

    def test_every_backend_of_every_device_has_one_for_its_unit(self):
        known = index(tables())
        missing = [
            f"{device.name}: {backend.runtime} via {backend.via} on the {backend.unit}"
            for device in devices()
            for format_ in device.formats
            for backend in device.backends(format_)
            if (backend.runtime, backend.via) not in known
            or known[backend.runtime, backend.via].unit != backend.unit
            or known[backend.runtime, backend.via].format != format_
        ]
        assert missing == []

    def test_no_rule_names_an_operator_twice(self):
        for found in tables():
            for rule in found.rules:
                assert max(Counter(rule.operators).values()) == 1, found.via

    def test_files_for_packages_are_declared(self):
        project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
        assert '"edgevit.export.placement" = ["tables/*.yaml"]' in project

    @pytest.mark.parametrize(
        ("old", "new", "said"),
        [
            (
                "max_rank: 4",
                "max_ranks: 4",
                'line 10: limits.max_ranks: unknown key; did you mean "max_rank"',
            ),
            ("constant: [1, 2]", "konstant: [1]", "rules[0].konstant: unknown key; did you mean"),
            ("unit: npu", "unit: ufo", '"ufo" is not one of the choices'),
            ("runtime: litert", "runtime: lite", 'line 2: runtime: "lite" is not one of the choices'),
            ("inputs: int8", "inputs: int9", 'rules[1].inputs[0]: "int9" is not one of the choices; did you'),
            ("max_rank: 4", "max_rank: four", 'limits.max_rank: must be a whole number, not "four"'),
            ("source: page\n", "source: book\n", '"book" is not in sources'),
            ("version: 1", "version: 2", "version: 2 is not supported"),
            ("url: https", "url: ftp", "must be an address such as"),
            ("operators: TANH", "operators: []", "must have at least one entry"),
        ],
    )
    def test_what_is_wrong_is_said_in_a_sentence(self, table, old, new, said):
        with pytest.raises(EdgevitError, match=re.escape(said)) as raised:
            table(old, new)
        assert "\n" not in str(raised.value)
        assert "some-delegate.yaml, line" in str(raised.value)

    def test_a_source_that_nothing_cites_is_refused(self, table):
        with pytest.raises(EdgevitError, match="sources.other: no fact cites this source"):
            table("sources:\n", "sources:\n  other: {title: Another page}\n")

    def test_two_tables_of_one_backend_are_refused(self, table):
        with pytest.raises(EdgevitError, match="two placement tables are of litert via Some delegate"):
            index([table(), table()])

    def test_another_file_is_not_taken_for_a_table(self, tmp_path):
        path = tmp_path / "list.yaml"
        path.write_text("- 1\n")
        with pytest.raises(EdgevitError, match="is not a placement table; one is a mapping such as"):
            read_table(path)


class TestConditions:
    """Each condition met, and each reason in words."""

    @pytest.mark.parametrize(
        ("needs", "record", "reason"),
        [
            ({"inputs": "int8"}, {}, "input is float32, not int8"),
            ({"inputs": "float32"}, {"inputs": [operand(), operand(1, "int8", constant=True)]}, None),
            ({"outputs": "int8"}, {}, "output is float32, not int8"),
            ({"max_rank": 3}, {}, "rank 4 > 3"),
            ({"max_rank": 4}, {}, None),
            ({"max_rank": 4}, {"inputs": [operand(shape=None)]}, "its rank is not known"),
            ({"min_rank": 5}, {}, "rank 4 < 5"),
            ({"ranks": {"1": 2}}, {}, "input 1 has rank 4, not 2"),
            ({"ranks": {"1": 4, "7": 2}}, {}, None),
            ({"static": True}, {"inputs": [operand(shape=(None, 4, 4, 8))]}, "its shape is not fixed"),
            ({"static": True}, {}, None),
            (
                {"innermost": 2},
                {"outputs": [operand(shape=(1, 4, 4, 8))]},
                "more than the innermost 2 dimensions are larger than 1",
            ),
            ({"innermost": 3}, {}, None),
            ({"given": [2]}, {}, "input 2 is left out"),
            ({"constant": [0]}, {}, "input 0 is not constant"),
            ({"constant": [1, 2]}, {}, None),
            ({"live": [1]}, {}, "input 1 is constant"),
            ({"live": [0]}, {}, None),
            ({"every": {"1": 1}}, holding(1, 2), "input 1 is 1, 2, not all 1"),
            ({"every": {"1": 1}}, holding(1, 1), None),
            ({"every": {"1": 1}}, {}, "input 1 is not known, not all 1"),
            ({"without": {"1": 0}}, holding(0, 2), "input 1 is 0, 2, not free of 0"),
            ({"one_of": {"1": [[1, 2]]}}, holding(2, 3), "input 1 is 2, 3"),
            ({"one_of": {"1": [[1, 2]]}}, holding(1, 2), None),
            ({"attributes": {"beta": [1.0]}}, {"beta": 2.0}, "beta 2.0, not 1.0"),
            ({"attributes": {"beta": [1.0]}}, {}, None),
            ({"max_inputs": 1}, {}, "2 inputs > 1"),
            ({"max_outputs": 1}, {"outputs": [operand(), operand(1)]}, "2 outputs > 1"),
        ],
    )  # fmt: skip
    def test_reasons(self, needs, record, reason):
        assert unmet(Needs.model_validate(needs), operator(**record)) == reason

    def test_an_operator_that_no_rule_names_is_refused_with_the_tables_reason(self, table):
        assert refusal(table(), operator("SQUEEZE")) == "the delegate has no such operator"

    def test_one_of_several_rules_is_enough_and_the_first_says_why_not(self, table):
        assert refusal(table(), operator()) is None
        assert refusal(table(), operator(inputs=[operand(dtype="int8"), operand(1, "int8")])) is None
        assert refusal(table(), operator(inputs=[operand(), operand(1)])) == "input 1 is not constant"

    def test_limits_hold_for_every_operator(self, table):
        assert refusal(table(), operator(outputs=[operand(shape=(1,) * 5)])) == "rank 5 > 4"

    def test_a_refusal_can_be_stated(self, table):
        assert refusal(table(), operator("TANH")) == "it is said to be wrong there"

    def test_a_table_may_take_what_it_does_not_list(self, table):
        generous = table("basis: estimate", "basis: estimate\nunlisted: take")
        assert refusal(generous, operator("SQUEEZE")) is None
        assert refusal(generous, operator("SQUEEZE", outputs=[operand(shape=(1,) * 5)])) == "rank 5 > 4"


KINDS = st.sampled_from(["CONV_2D", "TANH", "SQUEEZE", "Conv", "MatMul", "conv", "gather", "Reshape"])
SHAPES = st.one_of(st.none(), st.lists(st.one_of(st.none(), st.integers(0, 5)), max_size=7).map(tuple))
OPERANDS = st.builds(
    Operand,
    slot=st.sampled_from(["0", "1", "2", "x", "dilations"]),
    dtype=st.sampled_from(["float32", "float16", "int8", "int32", "bool", "unknown"]),
    shape=SHAPES,
    constant=st.booleans(),
    values=st.one_of(st.none(), st.tuples(st.integers(0, 2))),
)
OPERATORS = st.builds(
    Operator,
    kind=KINDS,
    inputs=st.lists(OPERANDS, max_size=4).map(tuple),
    outputs=st.lists(OPERANDS, min_size=1, max_size=2).map(tuple),
    attributes=st.dictionaries(st.sampled_from(["beta", "mode", "auto_pad"]), st.sampled_from([0, "x"])),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(OPERATORS, max_size=12))
def test_every_operator_is_taken_or_refused_with_a_reason_by_every_backend(operators):
    for (_, via), table in index(tables()).items():
        found = place_on(table, via, operators)
        assert found.total == len(operators)
        assert found.taken == sum(kind.count for kind in found.takes)
        assert found.taken + sum(fallback.count for fallback in found.fallbacks) == found.total
        assert all(fallback.reason and fallback.count > 0 for fallback in found.fallbacks)
        kinds = Counter(item.kind for item in operators)
        both = Counter({kind.kind: kind.count for kind in found.takes})
        for fallback in found.fallbacks:
            both[fallback.kind] += fallback.count
        assert both == kinds
        assert found.partitions <= (1 if table.partitions != "any" else found.taken)
        assert found.loads or (table.partitions == "whole" and found.fallbacks)


@given(st.lists(st.booleans()))
def test_partitions_are_the_runs_of_what_is_taken(taken):
    text = "".join("x" if item else "." for item in taken)
    assert count_runs(taken) == len(re.findall("x+", text))


@given(st.lists(KINDS))
def test_counts_of_kinds_add_up_and_come_most_frequent_first(kinds):
    counted = count_kinds(kinds)
    assert sum(item.count for item in counted) == len(kinds)
    assert [item.count for item in counted] == sorted((item.count for item in counted), reverse=True)
    assert {item.kind: item.count for item in counted} == Counter(kinds)


class TestPartitions:
    def placed(self, table, kinds):
        return place_on(table, "Some delegate", [operator(kind) for kind in kinds])

    def test_a_refused_operator_divides_what_is_taken(self, table):
        found = self.placed(table(), ["CONV_2D", "CONV_2D", "SQUEEZE", "CONV_2D"])
        assert (found.taken, found.partitions, found.loads) == (3, 2, True)

    def test_a_compiler_of_one_partition_takes_nothing_after_the_refusal_that_ends_it(self, table):
        first = table("basis: estimate", "basis: estimate\npartitions: first")
        found = self.placed(first, ["SQUEEZE", "CONV_2D", "CONV_2D", "SQUEEZE", "CONV_2D"])
        assert (found.taken, found.partitions) == (2, 1)
        assert [(item.kind, item.count, item.reason) for item in found.fallbacks] == [
            ("SQUEEZE", 2, "the delegate has no such operator"),
            ("CONV_2D", 1, "comes after SQUEEZE, where the only partition ends"),
        ]

    def test_a_runtime_that_falls_back_to_nothing_does_not_load_the_file(self, table):
        whole = table("basis: estimate", "basis: estimate\npartitions: whole")
        found = self.placed(whole, ["CONV_2D", "SQUEEZE"])
        assert (found.taken, found.partitions, found.loads) == (1, 0, False)
        assert self.placed(whole, ["CONV_2D"]).loads


class TestFiles:
    """Real files, through the checks that every reader makes."""

    def test_a_device_limits_the_backends_to_its_own(self, tiny_onnx):
        everywhere, there = placement(tiny_onnx), placement(tiny_onnx, device="iphone 15")
        assert [backend.via for backend in there.backends] == [
            "CPUExecutionProvider",
            "CoreMLExecutionProvider",
        ]
        assert set(there.backends) < set(everywhere.backends)
        assert (there.device, there.unknown) == ("Apple iPhone 15", ())
        assert there.operators == everywhere.operators
        assert sum(kind.count for kind in there.operators) == there.total

    def test_a_backend_of_a_users_device_without_a_table_is_named(self, tiny_onnx):
        profile = next(device for device in devices() if device.name == "raspberry-pi-5")
        backend = profile.runtimes.onnx[0].model_copy(update={"via": "NewExecutionProvider"})
        runtimes = profile.runtimes.model_copy(update={"onnx": (backend,)})
        found = placement(tiny_onnx, device=profile.model_copy(update={"runtimes": runtimes}))
        assert found.backends == ()
        assert found.unknown == ("onnxruntime via NewExecutionProvider",)

    def test_a_device_that_does_not_run_the_format_is_refused(self, tiny_onnx):
        with pytest.raises(EdgevitError, match=r"^--device: Coral Dev Board runs tflite, not onnx$"):
            placement(tiny_onnx, device="coral")

    def test_an_altered_file_is_refused(self, tiny_onnx, tmp_path):
        folder = tmp_path / "out"
        shutil.copytree(tiny_onnx.parent, folder)
        path = folder / "model.onnx"
        path.write_bytes(path.read_bytes() + b"x")
        with pytest.raises(EdgevitError, match="its sha256 differs"):
            placement(path)

    @pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07\x12\xff"])
    def test_a_damaged_onnx_file_is_refused_in_a_sentence(self, tmp_path, content):
        pytest.importorskip("onnx")
        path = tmp_path / "model.onnx"
        path.write_bytes(content)
        with pytest.raises(EdgevitError, match=r"is not a sound ONNX file \(damaged or truncated\): [^\n]+$"):
            placement(path)

    def test_a_damaged_tflite_file_is_refused_in_a_sentence(self, tmp_path):
        pytest.importorskip("ai_edge_litert")
        path = tmp_path / "model.tflite"
        path.write_bytes(b"\x20\x00\x00\x00TFL3" + b"\xff" * 30)
        with pytest.raises(
            EdgevitError, match=r"is not a sound TFLite file \(damaged or truncated\): [^\n]+$"
        ):
            placement(path)

    def test_a_damaged_package_is_refused_in_a_sentence(self, tmp_path):
        pytest.importorskip("coremltools")
        (tmp_path / "model.mlpackage").mkdir()
        with pytest.raises(EdgevitError, match=r"its Manifest.json cannot be read$"):
            placement(tmp_path / "model.mlpackage")

    def test_a_file_of_no_known_kind_is_refused(self, tiny_pt2):
        with pytest.raises(EdgevitError, match=r"is none of \*.mlpackage, \*.onnx, \*.tflite"):
            placement(tiny_pt2)


def test_a_core_ml_package_is_read_with_what_its_constants_say(tmp_path):
    pytest.importorskip("coremltools")
    from edgevit.export import to_coreml
    from edgevit.export.placement.read_coreml import read_coreml
    from tests.coreml_helpers import tiny_program

    path = tmp_path / "model.mlpackage"
    to_coreml(tiny_program(), path)
    operators = read_coreml(path)
    conv = next(item for item in operators if item.kind == "conv")
    slots = {item.slot: item for item in conv.inputs}
    assert slots["weight"].constant
    assert not slots["x"].constant
    assert slots["dilations"].values == (1, 1)
    assert conv.attributes["pad_type"] == "custom"
    found = {backend.via: backend for backend in placement(path).backends}
    assert found["CPU_ONLY"].taken == len(operators)
    engine = found["CPU_AND_NE"]
    # What is not half precision: the casts at both ends, and the image's normalisation before the first.
    assert engine.basis == "estimate"
    assert all("float32" in item.reason for item in engine.fallbacks)
    assert engine.taken > 0.8 * engine.total


def test_yaml_of_the_shipped_tables_has_no_long_lines_of_prose():
    """Comments are read by people; lists of names may be long."""
    for path in FOLDER.glob("*.yaml"):
        assert isinstance(yaml.safe_load(path.read_text()), dict)
        assert max(len(line) for line in path.read_text().splitlines() if line.startswith("#")) <= 115, path


def test_placements_are_plain_data(tiny_onnx):
    assert dataclasses.asdict(placement(tiny_onnx))["format"] == "onnx"
