"""What is drawn from measurements: retention, sums, and the parts of a model that operators belong to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.profiling.addresses import Address, address_of
from edgevit.profiling.blocks import block_of
from edgevit.profiling.measurements import OperatorTable, OperatorTime, Second, Sustained
from edgevit.profiling.probe.operators import uncut


def load(*runs_per_second: int) -> Sustained:
    """A load with so many runs in each of its seconds."""
    return Sustained(
        tuple(
            Second(float(at), runs, 1000.0, 1000 / runs, 1000 / runs, None, None)
            for at, runs in enumerate(runs_per_second)
        )
    )


def test_retention_is_of_the_last_half_minute_over_the_first():
    assert load(*[100] * 30, *[10] * 60, *[60] * 30).retention == pytest.approx(0.6)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=200))
def test_retention_turns_round_with_the_load(runs):
    """Played backwards, a load retains the reciprocal."""
    there, back = load(*runs), load(*reversed(runs))
    if there.duration >= 60 or len(runs) % 2 == 0:
        assert there.retention * back.retention == pytest.approx(1)


def test_a_short_load_is_compared_by_halves():
    assert load(10, 10, 5, 5).retention == pytest.approx(0.5)
    assert load(7).retention == 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.floats(0, 10))))
def test_sums_lose_no_operator(rows):
    table = OperatorTable(tuple(OperatorTime("n", kind, "cpu", ms, block) for kind, block, ms in rows), 0.0)
    for totals in (table.by_kind(), table.by_block()):
        assert sum(count for _, count, _ in totals) == len(rows)
        assert sum(ms for *_, ms in totals) == pytest.approx(table.total_ms)
        assert [ms for *_, ms in totals] == sorted((ms for *_, ms in totals), reverse=True)


@given(st.lists(st.floats(0.06, 0.9), min_size=100), st.lists(st.integers(1, 10), max_size=20))
def test_what_whole_microseconds_cut_off_is_found_again(short, longer):
    """Half a microsecond of each longer operator; of the short ones nearly what they take together."""
    whole = sum(short) + sum(us + 0.5 for us in longer)
    found = uncut([0.0] * len(short) + [float(us) for us in longer], whole)
    assert found[len(short) :] == [us + 0.5 for us in longer]
    assert sum(found) == pytest.approx(whole, rel=0.02)


def test_a_large_whole_says_little_of_short_operators():
    """A hundredth of it is more than they could take."""
    found = uncut([0.0] * 100 + [10_000.0], 1.01 * 10_000)
    assert 0.25 < found[0] < 0.4


@given(st.lists(st.integers(0, 1000).map(float), min_size=1), st.floats(0, 1e6))
def test_no_operator_is_given_more_than_was_cut_off(times, whole):
    assert all(us < found <= us + 1 for us, found in zip(times, uncut(times, whole), strict=True))


@pytest.mark.parametrize(
    ("weight", "block"),
    [
        ("blocks.11.mlp.fc1.weight", "blocks.11"),
        ("vit.encoder.layer.3.output.dense.bias", "vit.encoder.layer.3"),
        ("stages.0.0.conv1_1x1.conv.weight", "stages.0.0"),
        ("stem.conv.weight", "stem"),
        ("cls_token", "cls_token"),
    ],
)
def test_blocks_are_named_by_the_first_numbers(weight, block):
    assert block_of(weight) == block


@pytest.mark.parametrize(
    ("device", "address"),
    [
        ("local", None),
        ("ssh://pi@raspberrypi.local", Address("ssh", "pi@raspberrypi.local")),
        ("ssh://Pi-5:2222", Address("ssh", "Pi-5", 2222)),
        ("ssh://pi@[fe80::1]:22", Address("ssh", "pi@[fe80::1]", 22)),
        ("adb://192.168.1.5:5555", Address("adb", "192.168.1.5:5555")),
        ("adb://emulator-5554", Address("adb", "emulator-5554")),
    ],
)
def test_addresses_are_read_and_written_alike(device, address):
    assert address_of(device) == address
    if address is not None:
        assert str(address) == device
