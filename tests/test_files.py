"""Outputs appear whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.errors import EdgevitError
from edgevit.files import abandon_staged, check_output, sha256_of, size_of, staged_file, staged_folder


def test_a_block_that_ends_well_leaves_its_files(tmp_path):
    with staged_folder(tmp_path / "a" / "b") as stage:
        (stage / "one.txt").write_text("1")
        (stage / "package").mkdir()
        (stage / "package" / "two.txt").write_text("2")
        assert not (tmp_path / "a" / "b" / "one.txt").exists()
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["one.txt", "package"]


def test_a_block_that_fails_leaves_nothing_not_even_folders(tmp_path):
    (tmp_path / "kept").mkdir()
    with pytest.raises(RuntimeError), staged_folder(tmp_path / "kept" / "a" / "b") as stage:
        (stage / "one.txt").write_text("1")
        raise RuntimeError
    assert [path.name for path in tmp_path.rglob("*")] == ["kept"]


def test_only_what_was_written_is_replaced(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "old.txt").write_text("old")
    (tmp_path / "mine.txt").write_text("mine")
    with staged_folder(tmp_path) as stage:
        (stage / "package").mkdir()
        (stage / "package" / "new.txt").write_text("new")
    assert [path.name for path in (tmp_path / "package").iterdir()] == ["new.txt"]
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_failed_file_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), staged_file(path) as staged:
        staged.write_text("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_open_stages_can_be_abandoned(tmp_path):
    """What an interrupted process does: nested stages and their folders vanish."""
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom edgevit.files import abandon_staged, staged_folder\n"
        "root = Path(sys.argv[1])\n"
        "with staged_folder(root / 'a') as outer, staged_folder(outer / 'b') as inner:\n"
        "    (inner / 'x').write_text('1')\n    abandon_staged()\n    os._exit(7)\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert result.returncode == 7
    assert not list(tmp_path.iterdir())
    abandon_staged()


def test_outputs_that_cannot_be_written_are_known_before(tmp_path):
    check_output(tmp_path / "new" / "deep", names=["a.onnx"])
    assert not (tmp_path / "new").exists()
    (tmp_path / "a.onnx").write_text("mine")
    with pytest.raises(EdgevitError, match=r"a\.onnx exists already"):
        check_output(tmp_path, names=["b.onnx", "a.onnx"])
    check_output(tmp_path, names=["a.onnx"], force=True)
    if Path("/proc").is_dir():
        with pytest.raises(EdgevitError, match="cannot write to the output folder /proc"):
            check_output(Path("/proc/nothing/here"), names=["a.onnx"])


@settings(max_examples=20, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "c/d", "c/e"]), st.binary(max_size=50), min_size=1))
def test_the_hash_of_a_folder_is_of_its_names_and_contents(tmp_path_factory, contents):
    def write(root: Path, files: dict[str, bytes]) -> Path:
        for name, data in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        return root

    first, second = (write(tmp_path_factory.mktemp("x"), contents) for _ in range(2))
    assert sha256_of(first) == sha256_of(second)
    assert size_of(first) == sum(map(len, contents.values()))
    name = next(iter(contents))
    (second / name).write_bytes(contents[name] + b"!")
    assert sha256_of(first) != sha256_of(second)
