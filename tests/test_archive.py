"""A .pt2 file that a user was handed cannot run code: everything but a plain ATen graph is refused."""

from __future__ import annotations

import io
import json
import pickle
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from edgevit.errors import EdgevitError
from edgevit.graph.program import Program

MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"


class Canary:
    """Unpickling this leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture
def tampered(tiny_pt2, tmp_path) -> Callable[..., Path]:
    """The tiny program with members of its archive changed, added, or left out (None)."""

    def build(changes: dict[str, Callable[[bytes], bytes | None]]) -> Path:
        path = tmp_path / "tampered.pt2"
        changes = dict(changes)
        with zipfile.ZipFile(tiny_pt2) as source, zipfile.ZipFile(path, "w") as target:
            root = source.namelist()[0].split("/")[0]
            for name in source.namelist():
                change = changes.pop(name.removeprefix(f"{root}/"), None)
                data = source.read(name) if change is None else change(source.read(name))
                if data is not None:
                    target.writestr(name, data)
            for name, change in changes.items():
                target.writestr(f"{root}/{name}", change(b""))
        return path

    return build


def edited(edit: Callable[[dict], None]) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        value = json.loads(data)
        edit(value)
        return json.dumps(value).encode()

    return change


def nodes(model: dict) -> list[dict]:
    return model["graph_module"]["graph"]["nodes"]


def dictionaries(tree: object) -> Iterator[dict]:
    if isinstance(tree, dict):
        yield tree
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from dictionaries(child)


def test_an_untouched_copy_is_read(tampered, tiny_program):
    assert Program.load(tampered({})).card == tiny_program.card


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.hub.load",
        "torch.ops.aten.from_file.default",
        "torch.ops.load_library",
        "_operator.methodcaller",
        "_operator.attrgetter",
        "torch.ops.mylib.evil.default",
        "#extension",
    ],
)
def test_a_call_to_anything_but_aten_is_refused(tampered, target):
    path = tampered({MODEL: edited(lambda model: nodes(model)[0].update(target=target))})
    with pytest.raises(EdgevitError, match="which is not an ATen operator"):
        Program.load(path)


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "Symbol('s0').__class__",
        "(lambda: 1)()",
        "Symbol('__import__(1)')",
        "[x for x in ()]",
        "eval",
        "1 +",
        "(" * 5000,
    ],
)
def test_a_shape_expression_that_is_code_is_refused(tampered, expression):
    def edit(model):
        next(found for found in dictionaries(model) if "expr_str" in found)["expr_str"] = expression

    with pytest.raises(EdgevitError, match="is not plain arithmetic"):
        Program.load(tampered({MODEL: edited(edit)}))


def test_a_guard_that_is_code_is_refused_and_a_plain_one_is_not(tampered):
    bad = edited(lambda model: model.update(guards_code=["__import__('os').system('true')"]))
    with pytest.raises(EdgevitError, match="is not plain arithmetic"):
        Program.load(tampered({MODEL: bad}))
    plain = ["L['args'][0][0].size()[0] <= 64", "L['image'].size()[0] < 16"]
    good = edited(lambda model: model.update(guards_code=plain))
    assert Program.load(tampered({MODEL: good})).num_classes == 3


def test_pickled_weights_are_refused_unread(tampered, tmp_path):
    def edit(config):
        entry = next(iter(config["config"].values()))
        entry["use_pickle"] = True
        edit.member = f"data/weights/{entry['path_name']}"

    change = edited(edit)
    tampered({WEIGHTS: change})
    canary = tmp_path / "canary"
    path = tampered({WEIGHTS: change, edit.member: lambda _: pickle.dumps(Canary(canary))})
    with pytest.raises(EdgevitError, match="stores a tensor as a pickle"):
        Program.load(path)
    assert not canary.exists()


def test_example_inputs_that_need_unpickling_are_refused_unread(tampered, tmp_path):
    canary = tmp_path / "canary"

    def pickled(_: bytes) -> bytes:
        stream = io.BytesIO()
        torch.save(Canary(canary), stream)
        return stream.getvalue()

    with pytest.raises(EdgevitError, match="example inputs that need unpickling"):
        Program.load(tampered({"data/sample_inputs/model.pt": pickled}))
    assert not canary.exists()


@pytest.mark.parametrize(
    "member",
    [
        "data/aotinductor/model/evil.so",
        "data/constants/custom_obj_0",
        "data/constants/opaque_obj_0",
        "data/weights/model.pt",
        "models/other.json",
        "../../outside",
    ],
)
def test_a_member_that_is_no_part_of_a_graph_is_refused(tampered, member):
    with pytest.raises(EdgevitError, match="which is not part of an exported graph"):
        Program.load(tampered({member: lambda _: b"\x7fELF"}))


def test_files_that_are_no_archive_are_refused(tmp_path, tiny_pt2):
    whole = tiny_pt2.read_bytes()
    for name, data in {"text": b"hello", "empty": b"", "half": whole[: len(whole) // 2]}.items():
        path = tmp_path / f"{name}.pt2"
        path.write_bytes(data)
        with pytest.raises(EdgevitError, match=r"is not a \.pt2 archive, or is truncated"):
            Program.load(path)
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as archive:
        archive.writestr("a/b", "c")
    with pytest.raises(EdgevitError, match=r"is not a torch\.export archive"):
        Program.load(tmp_path / "other.pt2")
    with pytest.raises(EdgevitError, match="does not exist"):
        Program.load(tmp_path / "nowhere.pt2")


def test_a_flipped_byte_anywhere_is_refused_or_harmless(tmp_path, tiny_pt2, tiny_program):
    """Every member carries a checksum; a byte outside all members changes nothing that is read."""
    whole = tiny_pt2.read_bytes()
    chooser = random.Random(0)
    refused = 0
    for _ in range(60):
        position = chooser.randrange(len(whole))
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        path = tmp_path / "damaged.pt2"
        path.write_bytes(damaged)
        try:
            assert Program.load(path).card == tiny_program.card
        except EdgevitError:
            refused += 1
    assert refused > 20


def test_a_graph_without_a_card_says_how_to_make_one(tmp_path, tiny_program):
    path = tmp_path / "bare.pt2"
    torch.export.save(tiny_program.exported, path)
    with pytest.raises(EdgevitError, match=r"has no card: .* `edgevit capture .*bare\.pt2 --input-size"):
        Program.load(path)


def test_a_weights_config_that_is_not_json_is_refused(tampered):
    with pytest.raises(EdgevitError, match="is not JSON"):
        Program.load(tampered({WEIGHTS: lambda _: b"{"}))
    with pytest.raises(EdgevitError, match=r"could not be read by torch|is damaged"):
        Program.load(tampered({MODEL: lambda _: b"[]"}))
    with pytest.raises(EdgevitError, match="could not be read by torch"):
        Program.load(tampered({WEIGHTS: lambda _: None}))
