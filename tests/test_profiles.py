"""Device profiles: the shipped ones, finding one, and what is said of a file that is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from edgevit.errors import EdgevitError
from edgevit.profiles import DeviceProfile, device_names, devices, documents, load_profile
from edgevit.profiles import loader as loader_module
from edgevit.profiles.documents import MAX_BYTES, MAX_DEPTH
from edgevit.profiles.loader import index

FOLDER = Path(loader_module.__file__).parent

BOARD = """\
version: 1
name: my-board
title: My board
aliases: [bench, spare]
kind: sbc

cpu:
  chip: Some chip
  arch: arm64
  clusters:
    - {count: 4, core: Cortex-A76, max_mhz: 2400}
    - count: 2
      core: Cortex-A55
  source: brief

memory:
  sizes_mb: [4096, 2048, 8192]
  source: brief

accelerators:
  - {kind: npu, name: Some NPU, tops: 6, source: [brief, bench]}

os:
  name: linux
  min_version: "12"
  source: brief

runtimes:
  onnx:
    - {runtime: onnxruntime, via: CPUExecutionProvider, unit: cpu, precisions: [fp32, int8], source: brief}

links:
  - {kind: ethernet, mbps: 940, source: bench}

sources:
  brief:
    basis: datasheet
    title: Product brief
    url: https://example.org/brief.pdf
  bench:
    basis: measurement
    title: iperf3 between two of these
"""


@pytest.fixture(params=["SafeLoader", "CSafeLoader"], ids=["pure Python", "libyaml"])
def either_yaml(request, monkeypatch):
    """Both YAML readers, as PyYAML is installed with and without libyaml."""
    if not hasattr(yaml, request.param):
        pytest.skip("PyYAML was built without libyaml")
    monkeypatch.setattr(documents, "_Yaml", getattr(yaml, request.param))


@pytest.fixture
def board(tmp_path):
    """Writes the board's profile with one passage replaced."""

    def write(old: str = "", new: str = "") -> Path:
        assert BOARD.count(old) == 1 or not old
        path = tmp_path / "board.yaml"
        path.write_text(BOARD.replace(old, new, 1) if old else BOARD)
        return path

    return write


def refusal(path: Path | str) -> str:
    with pytest.raises(EdgevitError) as caught:
        load_profile(path)
    return str(caught.value)


def outcome_of(path: Path) -> DeviceProfile | str:
    try:
        return load_profile(path)
    except EdgevitError as error:
        return str(error)


# The shipped profiles


@pytest.mark.parametrize("name", device_names())
def test_every_shipped_file_loads_under_its_own_name(name):
    assert load_profile(FOLDER / f"{name}.yaml").name == name


def test_the_devices_people_ask_for_are_shipped():
    expected = {
        *("raspberry-pi-4", "raspberry-pi-5", "raspberry-pi-zero-2-w", "rock-5b"),
        *("jetson-orin-nano", "coral-dev-board", "mini-pc-n100", "generic-arm64", "generic-x86-64"),
        *(f"pixel-{number}" for number in (6, 7, 8, 9)),
        *(f"galaxy-s{number}" for number in (22, 23, 24, 25)),
        *(f"iphone-{number}" for number in (12, 13, 14, 15, 16)),
        *("ipad-pro-m2", "ipad-pro-m4"),
    }
    assert expected <= set(device_names())


def test_devices_come_sorted_by_name_and_once_each():
    names = [profile.name for profile in devices()]
    assert names == sorted(set(names)) == list(device_names())


def test_no_two_shipped_devices_share_a_name_or_an_alias():
    spellings = [name for profile in devices() for name in (profile.name, *profile.aliases)]
    assert len(index(devices())) == len(spellings)


def fields_in_use(value: object) -> Iterator[tuple[type[BaseModel], str]]:
    if isinstance(value, BaseModel):
        for name in value.model_fields_set:
            yield type(value), name
            yield from fields_in_use(getattr(value, name))
    elif isinstance(value, tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from fields_in_use(item)


def test_every_field_of_the_schema_is_used_by_a_shipped_file():
    used = {field for profile in devices() for field in fields_in_use(profile)}
    defined = {(model, name) for model, _ in used for name in model.model_fields}
    # What `edgevit profile --suite` writes is in none.
    assert {f"{model.__name__}.{name}" for model, name in defined - used} == {"DeviceProfile.measured"}


@pytest.mark.parametrize("profile", devices(), ids=lambda profile: profile.name)
def test_a_profile_written_out_and_read_back_is_the_same(profile, tmp_path):
    path = tmp_path / "copy.yaml"
    path.write_text(yaml.safe_dump(profile.model_dump(mode="json")))
    assert load_profile(path) == profile


def test_a_profile_cannot_be_changed_after_it_was_loaded():
    with pytest.raises(ValueError, match="frozen"):
        load_profile("pixel-8").title = "other"


# Finding one


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("pixel-8", "pixel-8"),
        ("Pixel 8", "pixel-8"),
        ("google_pixel_8", "pixel-8"),
        ("rpi5", "raspberry-pi-5"),
        ("RaspberryPi5", "raspberry-pi-5"),
        ("aarch64", "generic-arm64"),
    ],
)
def test_a_device_answers_to_its_name_and_its_aliases(spelling, name):
    assert load_profile(spelling).name == name


@given(st.data())
def test_case_and_separators_do_not_matter(data):
    profile = data.draw(st.sampled_from(devices()))
    name = data.draw(st.sampled_from([profile.name, *profile.aliases]))
    spelling = "".join(
        data.draw(st.sampled_from(["-", "_", " ", ""] if letter == "-" else [letter, letter.upper()]))
        for letter in name
    )
    assert load_profile(spelling) is profile


def test_a_device_found_by_its_full_name_reads_no_other_file(monkeypatch):
    read = []
    monkeypatch.setattr(loader_module, "_shipped", read.append)
    load_profile("Pixel-8")
    assert read == ["pixel-8"]


def test_a_misspelt_device_gets_a_suggestion():
    assert refusal("Pixle-8").startswith(
        'unknown device "Pixle-8" (`edgevit devices` lists them); did you mean "pixel-8"'
    )


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("", '""'),
        ("quantum-toaster", '"quantum-toaster"'),
        ("{name}", '"{name}"'),
        ("two\nlines", r'"two\nlines"'),
        ("pixel\0", r'"pixel\u0000"'),
        ("x" * 5000, '"' + "x" * 56 + "..."),
    ],
)
def test_an_unknown_device_is_refused_whatever_its_name(name, shown):
    assert refusal(name).startswith(f"unknown device {shown} (`edgevit devices` lists them); ")


def test_two_devices_that_share_an_alias_are_refused(board):
    mine = load_profile(board())
    other = load_profile(board("name: my-board", "name: other-board"))
    with pytest.raises(
        EdgevitError, match=r'^"bench" names both my-board and other-board; rename one of them$'
    ):
        index([mine, other])


def test_a_file_is_loaded_by_its_path(board, monkeypatch):
    path = board()
    monkeypatch.chdir(path.parent)
    profiles = [load_profile(spelling) for spelling in (path, str(path), "board.yaml", "./board.yaml")]
    assert profiles == [load_profile(path)] * 4
    assert profiles[0].name == "my-board"


# What a profile answers


def test_a_plan_may_count_on_the_smallest_variants_memory(board):
    assert load_profile(board()).memory_mb == 2048


def test_memory_that_is_not_published_is_none(board):
    profile = load_profile(board("memory:\n  sizes_mb: [4096, 2048, 8192]\n  source: brief\n", ""))
    assert (profile.memory, profile.memory_mb) == (None, None)


def test_cores_are_counted_over_the_clusters(board):
    assert load_profile(board()).cores == 6


def test_cores_that_are_not_published_are_none():
    assert load_profile("pixel-8").cores is None


def test_formats_are_those_with_a_way_to_run():
    assert load_profile("coral-dev-board").formats == ("tflite",)
    assert load_profile("iphone-15").formats == ("onnx", "tflite", "coreml")


def test_the_neural_engine_computes_in_int8_from_a17_pro_and_m4_on():
    def precisions(device: str) -> tuple[str, ...]:
        (neural_engine,) = (way for way in load_profile(device).backends("coreml") if way.unit == "npu")
        return neural_engine.precisions

    assert {device: "int8" in precisions(device) for device in ("iphone-15", "iphone-16")} == {
        "iphone-15": False,
        "iphone-16": True,
    }
    assert {device: "int8" in precisions(device) for device in ("ipad-pro-m2", "ipad-pro-m4")} == {
        "ipad-pro-m2": False,
        "ipad-pro-m4": True,
    }


def test_what_was_not_measured_is_an_estimate(board):
    profile = load_profile(board())
    assert not profile.is_estimate(profile.links[0])
    assert profile.is_estimate(profile.memory)


def test_a_fact_that_rests_on_a_datasheet_as_well_is_an_estimate(board):
    profile = load_profile(board())
    assert profile.accelerators[0].source == ("brief", "bench")
    assert profile.is_estimate(profile.accelerators[0])


# What is said of a file that is wrong


FIRST_BACKEND = "runtime: onnxruntime, via: CPUExecutionProvider, unit: cpu, precisions: [fp32, int8]"
NO_NUMBER = "looks like a number or a date but is none; put it in quotes"
MAPPING = "a mapping of keys to values"


@pytest.mark.usefixtures("either_yaml")
@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        # Keys
        (
            "memory:",
            "memmory:",
            'line 16: memmory: unknown key; did you mean "memory"?',
        ),
        (
            "count: 2",
            "cuont: 2",
            'line 12: cpu.clusters[1].cuont: unknown key; did you mean "count"? Known: core, count, max_mhz',
        ),
        ('  min_version: "12"\n', "", "line 23: os.min_version: missing; add it"),
        ("kind: sbc\n", "", "line 1: kind: missing; add it"),
        ("url: https", "web: https", "line 39: sources.brief.web: unknown key; known: basis, title, url"),
        (
            "title: My board",
            "title: My board\nkind: phone",
            'line 6: key "kind" is already on line 4; keep one of them',
        ),
        (
            "count: 4, core",
            "count: 4, count: 5, core",
            'line 11: key "count" is already on line 11; keep one of them',
        ),
        ("title: My board", "7: My board", "line 3: every key must be text; put it in quotes"),
        ("title: My board", "? [a]\n: My board", "line 3: every key must be text; put it in quotes"),
        # Types
        ("[4096, 2048, 8192]", "lots", 'line 17: memory.sizes_mb: must be a list, not "lots"'),
        ("[4096, 2048, 8192]", "[]", "line 17: memory.sizes_mb: must have at least one entry"),
        ("[4096, 2048, 8192]", '["4096"]', 'line 17: memory.sizes_mb[0]: must be a whole number, not "4096"'),
        ("[4096, 2048, 8192]", "[2048.5]", "line 17: memory.sizes_mb[0]: must be a whole number, not 2048.5"),
        ("count: 2", "count: yes", "line 12: cpu.clusters[1].count: must be a whole number, not true"),
        ("tops: 6", "tops: six", 'line 21: accelerators[0].tops: must be a number, not "six"'),
        ("tops: 6", "tops: .inf", "line 21: accelerators[0].tops: must be a finite number, not Infinity"),
        ('min_version: "12"', "min_version: 12", "line 25: os.min_version: must be text (in quotes), not 12"),
        (
            'min_version: "12"',
            "min_version: 2024-06-01",
            'line 25: os.min_version: must be text (in quotes), not "2024-06-01"',
        ),
        (
            '  name: linux\n  min_version: "12"\n  source: brief\n',
            "  - linux\n",
            f"line 23: os: must be {MAPPING}, not a list",
        ),
        (
            BOARD[BOARD.index("sources:") :],
            "sources: none\n",
            f'line 35: sources: must be {MAPPING}, not "none"',
        ),
        # Values
        ("[4096, 2048, 8192]", "[4096, -512]", "line 17: memory.sizes_mb[1]: must be above 0, not -512"),
        ("count: 2", "count: 0", "line 12: cpu.clusters[1].count: must be above 0, not 0"),
        ("tops: 6", "tops: -6", "line 21: accelerators[0].tops: must be above 0, not -6"),
        ("mbps: 940", "mbps: 0", "line 33: links[0].mbps: must be above 0, not 0"),
        ("title: My board", 'title: ""', 'line 3: title: must be some text on one line, not ""'),
        ("title: My board", 'title: "a\\nb"', r'line 3: title: must be some text on one line, not "a\nb"'),
        (
            "title: My board",
            '"ti\\ntel": My board',
            r'line 3: "ti\ntel": unknown key; did you mean "title"?',
        ),
        (
            "kind: sbc",
            "kind: fone",
            'line 5: kind: "fone" is not one of the choices; did you mean "phone"? '
            "Known: accelerator-board, generic, mini-pc, phone, sbc, tablet",
        ),
        (
            "[fp32, int8]",
            "[fp32, int4]",
            'line 30: runtimes.onnx[0].precisions[1]: "int4" is not one of the '
            'choices; did you mean "int8"? Known: fp16, fp32, int8',
        ),
        (
            "name: my-board",
            "name: My_Board",
            'line 2: name: must be lower-case words joined by hyphens, such as pixel-8, not "My_Board"',
        ),
        (
            "name: my-board",
            'name: "{value}"',
            'line 2: name: must be lower-case words joined by hyphens, such as pixel-8, not "{value}"',
        ),
        (
            "[bench, spare]",
            "[bench, a b]",
            'line 4: aliases[1]: must be lower-case words joined by hyphens, such as pixel-8, not "a b"',
        ),
        (
            '"12"',
            '"twelve"',
            'line 25: os.min_version: must be a version such as "12" or "6.0", not "twelve"',
        ),
        (
            "https://example.org/brief.pdf",
            "example.org",
            "line 39: sources.brief.url: must be an address such "
            'as https://example.org/page, not "example.org"',
        ),
        ("title: My board", "title: 2024-13-45", f'line 3: "2024-13-45" {NO_NUMBER}'),
        ("title: My board", "title: 0b_", f'line 3: "0b_" {NO_NUMBER}'),
        ("title: My board", "title: " + "9" * 5000, f'line 3: "{"9" * 56}... {NO_NUMBER}'),
        ("title: My board", f"title: 1{':00' * 200}.5", f'line 3: "1{":00" * 18}:... {NO_NUMBER}'),
        # One part against another
        (
            "[bench, spare]",
            "[bench, my-board]",
            'line 4: aliases[1]: "my-board" repeats the name or another alias; remove it',
        ),
        (
            "[bench, spare]",
            "[bench, spare, b-ench]",
            'line 4: aliases[2]: "b-ench" repeats the name or another alias; remove it',
        ),
        (
            "  core: Cortex-A55\n  source: brief",
            "  core: Cortex-A55\n  source: breif",
            'line 14: cpu.source: "breif" is not in sources; did you mean "brief"? Known: bench, brief',
        ),
        (
            "source: [brief, bench]",
            "source: [brief, desk]",
            'line 21: accelerators[0].source: "desk" is not in sources; known: bench, brief',
        ),
        (
            "source: [brief, bench]",
            "source: []",
            "line 21: accelerators[0].source: must have at least one entry",
        ),
        (
            "sources:\n",
            "sources:\n  rumour: {basis: assumption, title: A rumour}\n",
            "line 36: sources.rumour: no fact cites this source; cite it or remove it",
        ),
        (
            "    url: https://example.org/brief.pdf\n",
            "",
            "line 36: sources.brief.url: missing; a datasheet needs the address where it can be read",
        ),
        (
            "unit: cpu",
            "unit: gpu",
            "line 30: runtimes.onnx[0].unit: gpu is not among the accelerators; this device has cpu, npu",
        ),
        (
            "runtime: onnxruntime",
            "runtime: litert",
            "line 30: runtimes.onnx[0].runtime: must be onnxruntime or opencv for onnx files, not litert",
        ),
        (
            f"  onnx:\n    - {{{FIRST_BACKEND}, source: brief}}\n",
            "  onnx: []\n",
            "line 28: runtimes: no way to run any model; give one for coreml, onnx, tflite",
        ),
        (
            "kind: ethernet, mbps: 940",
            "kind: ethernet",
            "line 33: links[0].mbps: missing; a link needs its standard or its rate in Mbit/s",
        ),
        # Versions
        ("version: 1\n", "", "line 1: version: missing; add `version: 1`"),
        ("version: 1\n", "version: 2\n", "line 1: version: 2 is not supported; this edgevit reads version 1"),
        (
            "version: 1\n",
            "version: true\n",
            "line 1: version: true is not supported; this edgevit reads version 1",
        ),
        (
            "version: 1\n",
            'version: "1"\n',
            'line 1: version: "1" is not supported; this edgevit reads version 1',
        ),
        # YAML that is more than plain values
        (
            "title: My board",
            "title: &t My board",
            "line 3: anchors and aliases (& and *) are not allowed; write the value out",
        ),
        (
            "title: My board",
            "title: *t",
            "line 3: anchors and aliases (& and *) are not allowed; write the value out",
        ),
        (
            "title: My board",
            "<<: {title: My board}",
            "line 3: not valid YAML: could not determine a constructor for the tag...",
        ),
        (
            "title: My board",
            "title: " + "[" * 30 + "]" * 30,
            f"line 3: nested more than {MAX_DEPTH} deep; a device profile needs 7",
        ),
        (
            "title: My board",
            "title: !!python/name:os.system x",
            "line 3: tags (!) are not allowed; write a plain value, or text in quotes",
        ),
        (
            "[4096, 2048, 8192]",
            "!!python/tuple [4096]",
            "line 17: tags (!) are not allowed; write a plain value, or text in quotes",
        ),
        ("title: My board", r'title: "\ud800"', "line ..."),
        ("title: My board", "title: [", "line ..."),
        ("title: My board", "title: My: board", "line 3: not valid YAML: mapping values are not allowed..."),
    ],
)
def test_a_mistake_is_reported_with_its_line_its_key_and_what_would_be_right(board, old, new, sentence):
    path = board(old, new)
    said = refusal(path)
    expected = f"{path}, {sentence}"
    if sentence.endswith("..."):  # what follows is the YAML reader's own words
        said = said[: len(expected) - 3] + "..."
    assert said == expected


def test_another_version_is_named_before_its_unknown_keys(board):
    path = board("version: 1\n", "version: 2\nshoe_size: 43\n")
    assert refusal(path) == f"{path}, line 1: version: 2 is not supported; this edgevit reads version 1"


@pytest.mark.usefixtures("either_yaml")
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "{path} is empty; a device profile starts with `version: 1`"),
        (b" \n\n", "{path} is empty; a device profile starts with `version: 1`"),
        (b"# nothing\n", "{path} is not a device profile; one is a mapping such as `name: pixel-8`"),
        (b"just words", "{path} is not a device profile; one is a mapping such as `name: pixel-8`"),
        (b"- 1\n- 2\n", "{path} is not a device profile; one is a mapping such as `name: pixel-8`"),
        (b"\x89PNG\r\n\x1a\n", "{path} is not text in UTF-8; a device profile is a YAML file"),
        (b"TFL3\x00\x01\x02", "{path} is not a text file; a device profile is a YAML file"),
        (BOARD.encode("utf-16"), "{path} is not text in UTF-8; a device profile is a YAML file"),
        (b"#" * (MAX_BYTES + 1), "{path} is larger than 1000000 bytes; a device profile is a few kilobytes"),
    ],
    ids=["nothing", "blank", "comment", "words", "list", "image", "NUL bytes", "UTF-16", "huge"],
)
def test_a_file_that_is_no_profile_is_refused(tmp_path, content, sentence):
    path = tmp_path / "other.yaml"
    path.write_bytes(content)
    assert refusal(path) == sentence.format(path=path)


def test_a_file_of_the_largest_size_is_read(board):
    path = board()
    path.write_text(BOARD + "#" * (MAX_BYTES - len(BOARD)))
    assert load_profile(path).name == "my-board"


def test_a_byte_order_mark_does_no_harm(board):
    path = board()
    path.write_text(BOARD, encoding="utf-8-sig")
    assert load_profile(path).name == "my-board"


def test_an_alias_bomb_is_refused_before_it_is_expanded(tmp_path):
    layers = [f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]" for n in range(20)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(["version: 1", "a: &a [lol]", *layers]))
    assert refusal(path).startswith(f"{path}, line 2: anchors and aliases (& and *) are not allowed")


def test_a_second_document_is_refused(board):
    path = board("title: My board", "---\ntitle: My board")
    assert "expected a single document" in refusal(path)


def test_a_folder_is_refused(tmp_path):
    assert refusal(tmp_path) == f"device profile: {tmp_path} is a folder; a file is needed"


def test_a_file_that_is_not_there_is_refused(tmp_path):
    path = tmp_path / "gone.yaml"
    assert refusal(str(path)) == f"device profile: {path} does not exist"


def test_a_name_too_long_for_a_file_is_refused():
    assert refusal("x" * 5000 + ".yaml").endswith(".yaml cannot be read (File name too long)")


KEY = re.compile(r"([{ ]|^)([a-z]\w*)(?=:)")


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_misspelt_key_is_reported_on_its_own_line(tmp_path, data):
    text = (FOLDER / f"{data.draw(st.sampled_from(device_names()))}.yaml").read_text()
    facts = text[text.index("\nname:") : text.index("\nsources:")]
    key = data.draw(st.sampled_from([match for match in KEY.finditer(facts, 1) if match[2] != "version"]))
    end = text.index("\nname:") + key.end()
    path = tmp_path / "misspelt.yaml"
    path.write_text(f"{text[:end]}q{text[end:]}")
    line = text.count("\n", 0, end) + 1
    said = refusal(path)
    assert said.startswith(f"{path}, line {line}: ")
    assert f'{key[2]}q: unknown key; did you mean "{key[2]}"' in said


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_no_damage_to_a_file_makes_anything_but_a_profile_or_one_sentence(tmp_path, data):
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(BOARD))] * 2)))
    junk = data.draw(st.text(max_size=8) | st.text("{}[]:,-&*!|>'\"#%@`? \n\t0189.", max_size=8))
    path = tmp_path / "damaged.yaml"
    path.write_text(BOARD[:start] + junk + BOARD[end:], encoding="utf-8", errors="replace")
    outcome = outcome_of(path)
    assert isinstance(outcome, DeviceProfile) or (str(path) in outcome and len(outcome.splitlines()) == 1)
