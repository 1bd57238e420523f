"""The examples in the documentation work as they are printed, and its links lead somewhere."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgevit.cli import run

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Libraries that a smaller installation lacks, by the format that needs them.
FORMATS = {"tflite": "litert_torch", "coreml": "coremltools"}
BLOCK = re.compile(r"^```(bash|python) run\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def with_examples() -> list[Path]:
    return [page for page in PAGES if BLOCK.search(page.read_text())]


def examples(page: Path) -> list[tuple[str, str]]:
    """The language and the text of each; a page is skipped where a library that it needs is missing."""
    pytest.importorskip("onnx")
    pytest.importorskip("sklearn")
    found = BLOCK.findall(page.read_text())
    for format_, library in FORMATS.items():
        if any(format_ in text for _, text in found):
            pytest.importorskip(library)
    return found


def commands(text: str) -> list[str]:
    """One a line, those that go on after a backslash joined."""
    return text.replace("\\\n", " ").splitlines()


def carry_out(command: str) -> None:
    """As a shell would, but in this process, which has imported everything already."""
    words = shlex.split(command)
    with contextlib.ExitStack() as stack:
        if ">" in words:
            *words, _, target = words
            written = stack.enter_context(Path(target).open("w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(written))
        match words:
            case ["edgevit", *arguments]:
                assert run(arguments) == 0, command
            case ["python", *arguments]:
                subprocess.run([sys.executable, *arguments], check=True)
            case _:
                pytest.fail(f"not known here: {command}")


@dataclass
class Session:
    """Commands that were carried out, on whichever page each came first."""

    made: dict[str, list[Path]] = field(default_factory=dict)

    def carry_out(self, command: str, folder: Path) -> None:
        """In a page's folder, or put there what the very same command has made for another page."""
        if command not in self.made:
            before = {*folder.iterdir()}
            carry_out(command)
            self.made[command] = [path for path in folder.iterdir() if path not in before]
            names = [path.name for paths in self.made.values() for path in paths]
            assert len(names) == len({*names}), f"{command} makes what another command makes elsewhere"
        else:
            for path in self.made[command]:
                (folder / path.name).symlink_to(path)


@pytest.fixture(scope="session")
def session() -> Session:
    return Session()


def test_there_are_examples():
    assert ROOT / "README.md" in with_examples()


@pytest.mark.parametrize("page", with_examples(), ids=lambda page: page.stem)
def test_the_examples_of_a_page_run_in_order(page, session, tmp_path, monkeypatch):
    found = examples(page)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    for kind, text in found:
        if kind == "python":
            exec(text, {"__name__": "__main__"})  # noqa: S102 - our own pages
        else:
            for command in commands(text):
                session.carry_out(command, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", with_examples(), ids=lambda page: page.stem)
def test_the_examples_of_a_page_run_in_a_shell(page, tmp_path):
    """As a reader does: nothing is made beforehand, and every command is a process of its own."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for kind, text in examples(page):
        command = ["bash", "-euo", "pipefail", "-c", text] if kind == "bash" else [sys.executable, "-c", text]
        result = in_a_shell(command, tmp_path)
        assert result.returncode == 0, f"{text}\n{result.stdout}\n{result.stderr}"


def in_a_shell(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """With this environment's programs first on the path."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_command_of_the_examples_is_installed(tmp_path):
    result = in_a_shell(["bash", "-c", "edgevit devices"], tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_readme_lists_every_command():
    from edgevit.cli import _COMMANDS

    listed = re.findall(r"^\| `edgevit ([\w-]+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(_COMMANDS)


def test_doctests():
    """The examples in docstrings."""
    import doctest
    import importlib

    failed = attempted = 0
    for name in (
        "edgevit.errors",
        "edgevit.graph.card",
        "edgevit.graph.cutting",
        "edgevit.graph.inspection",
        "edgevit.evaluation",
        "edgevit.cli.output",
        "edgevit.export.placement.analysis",
        "edgevit.export.placement.operators",
        "edgevit.cli.plan",
        "edgevit.prediction.operations",
        "edgevit.profiling.blocks",
        "edgevit.profiling.latency",
        "edgevit.profiling.running",
        "edgevit.profiles.schema",
        "edgevit.report.charts",
        "edgevit.report.compression",
        "edgevit.report.figures",
        "edgevit.report.pages",
        "edgevit.runtime.emit.kserve",
        "edgevit.runtime.emit.pbtxt",
        "edgevit.runtime.watching",
    ):
        result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
        failed, attempted = failed + result.failed, attempted + result.attempted
    assert attempted > 10
    assert failed == 0
