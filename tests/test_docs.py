"""The examples in the documentation work as they are printed, and its links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Libraries that a smaller installation lacks, by the format that needs them.
FORMATS = {"tflite": "litert_torch", "coreml": "coremltools"}
BLOCK = re.compile(r"^```(bash|python) run\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def with_examples() -> list[Path]:
    return [page for page in PAGES if BLOCK.search(page.read_text())]


def test_there_are_examples():
    assert ROOT / "README.md" in with_examples()


@pytest.mark.parametrize("page", with_examples(), ids=lambda page: page.stem)
def test_the_examples_of_a_page_run_in_order(page, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("sklearn")
    examples = BLOCK.findall(page.read_text())
    for format_, library in FORMATS.items():
        if any(format_ in text for _, text in examples):
            pytest.importorskip(library)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for kind, text in examples:
        command = ["bash", "-euo", "pipefail", "-c", text] if kind == "bash" else [sys.executable, "-c", text]
        result = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, f"{text}\n{result.stdout}\n{result.stderr}"


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
        "edgevit.graph.inspection",
        "edgevit.evaluation",
        "edgevit.cli.output",
        "edgevit.export.placement.analysis",
        "edgevit.export.placement.operators",
        "edgevit.profiling.latency",
        "edgevit.profiles.schema",
        "edgevit.report.charts",
        "edgevit.report.compression",
        "edgevit.report.figures",
        "edgevit.report.pages",
    ):
        result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
        failed, attempted = failed + result.failed, attempted + result.attempted
    assert attempted > 10
    assert failed == 0
