"""Sub-models on devices: as good as trying everything, never worse than greedy, clear where nothing fits."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.errors import EdgevitError
from edgevit.pruning.assignment import MOST_MODELS, Assignment, Device, Load, assign, greedy, read_devices

SIZES = st.integers(0, 12)
MODELS = st.lists(st.tuples(SIZES, SIZES), min_size=1, max_size=5).map(
    lambda sizes: [Load(f"m{place}", macs, size) for place, (macs, size) in enumerate(sizes)]
)
DEVICES = st.lists(
    st.tuples(
        st.sampled_from([1.0, 1.5, 4.0]),
        st.integers(0, 30),
        st.none() | st.integers(0, 30),
        st.none() | st.sampled_from([0.5, 3.0, 10.0]),
    ),
    min_size=1,
    max_size=4,
).map(lambda entries: [Device(f"d{place}", *entry) for place, entry in enumerate(entries)])


def placements(models: list[Load], devices: list[Device]):
    """Every way to place the models: on each device, the models it gets."""
    for chosen in itertools.product(devices, repeat=len(models)):
        yield {
            device: [m for m, place in zip(models, chosen, strict=True) if place == device]
            for device in devices
        }


def excess(own: list[Load], device: Device) -> tuple[int, int]:
    """Bytes and multiply-accumulates that a device has too many."""
    macs = sum(m.macs for m in own)
    limits = [] if device.energy_macs is None else [device.energy_macs]
    if device.latency_seconds is not None:
        limits.append(int(device.latency_seconds * device.macs_per_second))
    too_many_macs = max((macs - limit for limit in limits), default=0)
    return max(sum(m.bytes for m in own) - device.memory_bytes, 0), max(too_many_macs, 0)


def total_excess(placed: dict[Device, list[Load]]) -> tuple[int, int]:
    each = [excess(own, device) for device, own in placed.items()]
    return sum(bytes_over for bytes_over, _ in each), sum(macs_over for _, macs_over in each)


def latency(placed: dict[Device, list[Load]]) -> float:
    return max(sum(m.macs for m in own) / device.macs_per_second for device, own in placed.items())


def assert_holds(found: Assignment, models: list[Load], devices: list[Device]) -> None:
    """The assignment says of itself what is so, and keeps to the budgets."""
    assert list(found.device_of) == [model.name for model in models]
    placed = {device: [m for m in models if m.name in found.on(device.name)] for device in devices}
    assert sum(map(len, placed.values())) == len(models)
    assert total_excess(placed) == (0, 0)
    assert found.latency == pytest.approx(latency(placed))
    assert found.seconds == {
        device.name: pytest.approx(sum(m.macs for m in own) / device.macs_per_second)
        for device, own in placed.items()
    }


@given(MODELS, DEVICES)
def test_it_is_as_good_as_trying_everything(models, devices):
    every = list(placements(models, devices))
    possible = [latency(placed) for placed in every if total_excess(placed) == (0, 0)]
    if possible:
        found = assign(models, devices)
        assert_holds(found, models, devices)
        assert found.latency == pytest.approx(min(possible))
        return
    bytes_over = min(total_excess(placed)[0] for placed in every)
    within_memory = [total_excess(placed)[1] for placed in every if total_excess(placed)[0] == 0]
    name, least = (
        ("memory_bytes", bytes_over) if bytes_over else ("(energy_macs|latency_seconds)", min(within_memory))
    )
    with pytest.raises(
        EdgevitError, match=rf"^{name}: however .* {least:,} \D*at the least \(d\d would need"
    ):
        assign(models, devices)


@given(MODELS, DEVICES)
def test_greedy_keeps_to_the_budgets_and_is_never_better(models, devices):
    found = greedy(models, devices)
    if found is not None:
        assert_holds(found, models, devices)
        assert assign(models, devices).latency <= found.latency * (1 + 1e-12)


def test_greedy_can_be_worse():
    models = [Load(f"m{place}", macs, 1) for place, macs in enumerate([3, 3, 2, 2, 2])]
    devices = [Device("a", 1.0, 9), Device("b", 1.0, 9)]
    assert greedy(models, devices).latency == 7
    assert assign(models, devices).latency == 6


def test_greedy_can_find_no_room_where_there_is_some():
    models = [Load("a", 4, 2), Load("b", 3, 2), Load("c", 2, 3)]
    devices = [Device("x", 1.0, 4), Device("y", 1.0, 3)]
    assert greedy(models, devices) is None
    assert assign(models, devices).on("x") == ("a", "b")


def test_a_fast_device_takes_several_where_a_slow_one_waits():
    models = [Load(name, 10, 1) for name in "abc"]
    found = assign(models, [Device("slow", 1.0, 9), Device("fast", 100.0, 9)])
    assert found.on("fast") == ("a", "b", "c")
    assert found.seconds == {"slow": 0.0, "fast": pytest.approx(0.3)}


def test_an_energy_budget_keeps_work_away():
    models = [Load("a", 10, 1), Load("b", 10, 1)]
    found = assign(models, [Device("slow", 1.0, 9), Device("fast", 100.0, 9, energy_macs=15)])
    assert sorted(found.device_of.values()) == ["fast", "slow"]


def test_ten_models_find_their_place_on_ten_devices():
    models = [Load(f"m{place}", 100 + 37 * place % 101, 50 + 53 * place % 97) for place in range(10)]
    devices = [Device(f"d{place}", 1.0 + place % 4, 400) for place in range(10)]
    assert_holds(assign(models, devices), models, devices)


def test_what_memory_lacks_is_said_with_the_device_that_lacks_most():
    models = [Load("a", 1, 1000), Load("b", 1, 5000)]
    with pytest.raises(EdgevitError) as refusal:
        assign(models, [Device("pi-1", 1.0, 1500), Device("pi-2", 1.0, 3000)])
    assert str(refusal.value) == (
        "memory_bytes: however the 2 sub-models are placed, 2,000 bytes are lacking at the least (pi-2 would "
        "need 5,000 and has 3,000); prune them further, or add a device"
    )


def test_energy_that_does_is_said_where_memory_is_enough():
    with pytest.raises(EdgevitError, match=r"^energy_macs: .* 4 multiply-accumulates are too many at the le"):
        assign([Load("a", 9, 1)], [Device("x", 1.0, 0), Device("y", 1.0, 1, energy_macs=5)])


def test_latency_that_is_too_short_is_said():
    with pytest.raises(
        EdgevitError, match=r"^latency_seconds: .* 4 multiply-accumulates are too many at the"
    ):
        assign([Load("a", 9, 1)], [Device("y", 10.0, 1, energy_macs=6, latency_seconds=0.5)])


@pytest.mark.parametrize("place", [assign, greedy])
@pytest.mark.parametrize(
    ("models", "devices", "sentence"),
    [
        ([], [Device("d", 1.0, 1)], "models: there are none"),
        ([Load("a", 1, 1)], [], "devices: there are none"),
        ([Load("a", 1, 1)] * 2, [Device("d", 1.0, 1)], "sub-model a: 2 are called so"),
        ([Load("a", 1, 1)], [Device("d", 1.0, 1)] * 3, "device d: 3 are called so"),
    ],
)
def test_what_cannot_be_placed_is_refused(place, models, devices, sentence):
    with pytest.raises(EdgevitError, match=sentence):
        place(models, devices)


def test_more_models_than_can_be_placed_exactly_are_refused():
    models = [Load(f"m{place}", 1, 1) for place in range(MOST_MODELS + 1)]
    with pytest.raises(EdgevitError, match=f"models: {MOST_MODELS + 1} are given; at most {MOST_MODELS} can"):
        assign(models, [Device("d", 1.0, 100)])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Load("a", -1, 1), "sub-model a: macs and bytes must be at least 0"),
        (lambda: Load("a", 1, -1), "sub-model a: macs and bytes"),
        (lambda: Device("d", 0.0, 1), "device d: macs_per_second must be above 0"),
        (lambda: Device("d", float("nan"), 1), "device d: macs_per_second must be above 0"),
        (lambda: Device("d", 1.0, -1), "device d: memory_bytes and energy_macs must be at least 0"),
        (lambda: Device("d", 1.0, 1, -1), "device d: memory_bytes and energy_macs"),
        (lambda: Device("d", 1.0, 1, None, 0.0), "device d: latency_seconds must be above 0 and finite"),
        (lambda: Device("d", 1.0, 1, None, float("inf")), "device d: latency_seconds must be above 0"),
        (lambda: Device("d", float("inf"), 1), "device d: macs_per_second must be above 0 and finite"),
    ],
)
def test_numbers_that_cannot_be_are_refused(make, sentence):
    with pytest.raises(EdgevitError, match=sentence):
        make()


def test_a_devices_file_is_read(tmp_path):
    path = tmp_path / "devices.yaml"
    path.write_text(
        "version: 1\n"
        "devices:\n"
        "  - {name: pi-1, macs_per_second: 2.0e+9, memory_bytes: 4000000, energy_macs: 300000000,\n"
        "     latency_seconds: 0.2}\n"
        "  - {name: pi-2, macs_per_second: 1500000000, memory_bytes: 2000000}\n"
    )
    assert read_devices(path) == (
        Device("pi-1", 2e9, 4000000, 300000000, 0.2),
        Device("pi-2", 1.5e9, 2000000),
    )


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["devices: []"], "devices: must have at least one entry"),
        (["devices: 3"], "devices: must be a list"),
        (["hosts: []"], "hosts: unknown key; known: devices, version"),
        (
            ["devices:", "  - {name: a, macs_per_second: 1, memory_byte: 2}"],
            'devices[0].memory_byte: unknown key; did you mean "memory_bytes"',
        ),
        (["devices:", "  - {name: a, macs_per_second: 1}"], "devices[0].memory_bytes: missing"),
        (
            ["devices:", "  - {name: a, macs_per_second: 0, memory_bytes: 2}"],
            "devices[0].macs_per_second: must be above 0",
        ),
        (
            ["devices:", "  - {name: a, macs_per_second: 1, memory_bytes: -2}"],
            "devices[0].memory_bytes: must be at least 0",
        ),
        (
            ["devices:", *["  - {name: a, macs_per_second: 1, memory_bytes: 2}"] * 2],
            "device a: 2 are called so; give each a name of its own",
        ),
    ],
)
def test_a_mistake_in_a_devices_file_is_named(tmp_path, lines, problem):
    path = tmp_path / "devices.yaml"
    path.write_text("\n".join(["version: 1", *lines, ""]))
    with pytest.raises(EdgevitError, match=f"^{re.escape(str(path))}.*{re.escape(problem)}"):
        read_devices(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("devices: []", "version: missing; add `version: 1`"),
        ("version: 2", "version: 2 is not supported"),
        ("", "is empty; a devices file starts with `version: 1`"),
    ],
)
def test_a_devices_file_of_another_version_is_refused(tmp_path, text, problem):
    path = tmp_path / "devices.yaml"
    path.write_text(text)
    with pytest.raises(EdgevitError, match=problem):
        read_devices(path)
