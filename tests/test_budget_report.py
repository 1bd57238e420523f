"""The page of a search within a budget: its figures and its frontier, safe with any name."""

from __future__ import annotations

import pytest

from edgevit.report.budget import WAYS, render
from tests.pages import (
    HOSTILE,
    LONG,
    WIDTHS,
    Page,
    addresses_asked_for,
    browse,
    in_browser,
    widths_in_browser,
)


def a_candidate(name, cost, divergence, **widths):
    return {
        "name": name,
        "widths": widths or {"fc1:hidden": 8},
        "kept_float": [],
        "cost": cost,
        "divergence": divergence,
    }


def a_summary(**changes):
    summary = {
        "version": 3,
        "machine": {"system": "Linux", "machine": "x86_64", "cores": 2, "python": "3.11.7"},
        "model": "patterns",
        "program": "small.pt2",
        "of": "latency",
        "precision": None,
        "budget": 12_000_000,
        "whole": 25_000_000,
        "images": 64,
        "evaluations": 120,
        "bytes": 9_000_000,
        "divergence": 0.0123,
        "latency": {
            "format": "onnx",
            "device": "local",
            "whole_ms": 25.0,
            "expected_ms": 11.6,
            "p50_ms": 11.9,
            "warning": None,
        },
        "candidates": [
            a_candidate("search", 11_600_000, 0.04, **{"fc1:hidden": 384, "blocks.1.mlp": "skip"}),
            a_candidate("evolution", 11_900_000, 0.05),
            a_candidate("uniform", 11_000_000, 0.2),
        ],
        "frontier": [
            a_candidate("falling", 9_000_000, 0.7),
            a_candidate("rising", 9_000_000, 0.9),
            a_candidate("sensitivities", 8_000_000, 0.5),
            a_candidate("sensitivities", 25_000_000, 0.0),
        ],
    }
    return summary | changes


def test_the_page_says_what_was_found():
    page = Page(render(a_summary()))
    assert page.faults == []
    assert "differs from the whole by 0.012 nats, its layers fitted" in page.text
    assert "before that by 0.04, where the best of the simpler ways, evolution, differs by 0.05" in page.text
    assert "11.9 ms p50 in onnx on local , one thread, in a fresh process; the whole 25.0 ms" in page.text
    assert "fc1:hidden 384 units blocks.1.mlp skip" in page.text


def test_every_submodel_is_a_point():
    text = render(a_summary())
    assert text.count('class="point soft"') == 4
    # But the whole, which has no place on a logarithmic scale.
    assert text.count('class="point"') == 2
    for name, (glyph, _) in WAYS.items():
        assert f"<title>{name}: " in text
        assert glyph in text


def test_nothing_but_the_whole_is_a_point_all_the_same():
    whole = [a_candidate("search", 25_000_000, 0.0)]
    assert render(a_summary(candidates=whole, frontier=[])).count('class="point"') == 1


@pytest.mark.parametrize(("of", "words"), [("macs", "11.6 M"), ("bytes", "11.6 MB")])
def test_other_budgets_have_their_units(of, words):
    assert f"{words} (0.46" in Page(render(a_summary(of=of, latency=None))).text


def test_what_is_quantized_is_said():
    text = Page(render(a_summary(precision="w8a8"))).text
    assert "its layers fitted and w8a8;" in text
    assert "9.00 MB, w8a8" in text
    assert "Layers are w8a8 but for none." in text


def test_layers_that_are_left_float_are_said():
    found = a_candidate("search", 11_600_000, 0.04) | {"kept_float": ["linear_4"]}
    text = Page(render(a_summary(precision="w8a8", candidates=[found]))).text
    assert "Layers are w8a8 but for 1 layer, which the search leaves float." in text
    assert "fc1:hidden 8 units linear_4 float" in text


def test_a_busy_machine_is_said():
    latency = a_summary()["latency"] | {"warning": "the machine was busy"}
    assert 'role="note">the machine was busy' in render(a_summary(latency=latency))


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_only_ever_text(name):
    plain, hostile = (Page(render(a_summary(model=model, program=model))) for model in ("x", name))
    assert hostile.faults == []
    assert hostile.tags == plain.tags


@in_browser
def test_the_page_in_a_browser(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(render(a_summary(model=LONG)), encoding="utf-8")
    log = tmp_path / "net.json"
    _, console = browse(page, tmp_path, f"--log-net-log={log}", "--dump-dom")
    assert console == []
    assert {url for url in addresses_asked_for(log) if not url.startswith(("file:", "data:"))} == set()
    assert widths_in_browser(page.read_text(encoding="utf-8"), tmp_path) == WIDTHS
