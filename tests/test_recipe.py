"""Recipes: written as they are read, and refused with the line of what is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgevit.errors import EdgevitError
from edgevit.recipe import QuantizeRecipe, Recipe

NAMES = st.from_regex(r"[a-z0-9_.*:#'\" -]{1,12}", fullmatch=True)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "precision": NAMES,
        "method": NAMES,
        "images": st.integers(1, 10**6),
        "placement": st.none() | NAMES,
        "layers": st.none() | st.dictionaries(NAMES, st.sampled_from(["weights", "inputs", "integer"])),
        "exclude": st.lists(NAMES).map(tuple),
        "max_drop": st.none() | st.floats(0, 100),
        "fallback": st.none() | NAMES,
        "iterations": st.integers(1, 10**6),
        "seed": st.integers(0, 2**63),
    },
)


@given(OPTIONS)
def test_what_was_written_is_read(tmp_path_factory, options):
    path = tmp_path_factory.mktemp("recipe") / "y.recipe.yaml"
    recipe = Recipe(quantize=QuantizeRecipe(**options))
    recipe.write(path)
    assert Recipe.read(path) == recipe


def test_a_file_names_its_version_first(tmp_path):
    Recipe(quantize=QuantizeRecipe()).write(tmp_path / "r.yaml")
    lines = (tmp_path / "r.yaml").read_text().splitlines()
    assert lines[:3] == ["version: 1", "quantize:", "  precision: w8a8"]
    assert not any("null" in line for line in lines)


def test_what_is_left_out_is_the_default(tmp_path):
    (tmp_path / "r.yaml").write_text("version: 1\nquantize: {}\n")
    assert Recipe.read(tmp_path / "r.yaml").quantize == QuantizeRecipe()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("images: 0", "quantize.images: must be at least 1, not 0"),
        ("images: some", "quantize.images: "),
        ("max_drop: .inf", "quantize.max_drop: must be a finite number"),
        ("max_drop: .nan", "quantize.max_drop: must be a finite number"),
        ("max-drop: 1", 'quantize.max-drop: unknown key; did you mean "max_drop"'),
        ("precision: 8", "quantize.precision: must be text (in quotes), not 8"),
        ("exclude: head", "quantize.exclude: must be a list"),
        ("layers: [a]", "quantize.layers: must be a mapping"),
        ("layers: {a: full}", 'quantize.layers.a: "full" is not one of the choices'),
        ("precision: w8a8\n  precision: w8", 'key "precision" is already on line 3'),
        ("precision: !!python/name:os.system x", "tags (!) are not allowed"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path, line, problem):
    path = tmp_path / "r.yaml"
    path.write_text(f"version: 1\nquantize:\n  {line}\n")
    with pytest.raises(EdgevitError) as refusal:
        Recipe.read(path)
    assert str(refusal.value).startswith(f"{path}, line ")
    assert problem in str(refusal.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"precision": ""}, '--quantize: must be some text on one line, not ""'),
        ({"max_drop": -0.5}, "--max-drop: must be at least 0, not -0.5"),
        ({"exclude": ("head", "\n")}, "--exclude: must be some text on one line"),
        ({"exclud": ("head",)}, '--exclud: unknown key; did you mean "exclude"'),
    ],
)
def test_options_are_refused_by_the_name_they_have_on_the_command_line(options, sentence):
    with pytest.raises(EdgevitError) as refusal:
        QuantizeRecipe.of_options(options)
    assert str(refusal.value).startswith(sentence)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"images": 0}, "QuantizeRecipe: images: must be at least 1, not 0"),
        ({"max_drop": float("nan")}, "QuantizeRecipe: max_drop: must be a finite number, not NaN"),
        ({"precision": 8}, "QuantizeRecipe: precision: must be text (in quotes), not 8"),
        ({"exclude": ("head", "")}, 'QuantizeRecipe: exclude[1]: must be some text on one line, not ""'),
        ({"layers": {"a": "int"}}, 'QuantizeRecipe: layers.a: "int" is not one of the choices; '),
        ({"exclud": ("head",)}, 'QuantizeRecipe: exclud: unknown key; did you mean "exclude"'),
    ],
)
def test_a_recipe_built_with_a_mistake_is_refused_in_a_sentence(options, sentence):
    with pytest.raises(EdgevitError) as refusal:
        QuantizeRecipe(**options)
    assert str(refusal.value).startswith(sentence)
    assert "\n" not in str(refusal.value)


def test_a_recipe_out_of_something_else_is_refused_in_a_sentence():
    with pytest.raises(EdgevitError, match="^QuantizeRecipe: must be a mapping of keys to values, not 5$"):
        Recipe(quantize=5)


def test_a_recipe_does_not_change():
    with pytest.raises(ValidationError):
        QuantizeRecipe().precision = "w4a4"
