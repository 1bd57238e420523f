"""Which submodel is meant: widths in words."""

from __future__ import annotations

from collections.abc import Iterator

from edgevit.errors import EdgevitError
from edgevit.submodels.branches import Replacement
from edgevit.submodels.nesting import Nesting

_FORMS = (
    "give a share of all axes (0.5), of those of some roles (hidden=0.5,heads=1), what stands in for a "
    "residual branch (blocks.3.mlp=skip), the units of each axis in the order of the network "
    "(384,384,192 ...), or the name of a slice"
)


def parse_widths(text: str, nesting: Nesting) -> dict[str, int | Replacement]:
    """The submodel that a text asks for, with a width for every axis.

    - ``0.5``: that share of the units of each axis; ``1.0`` is the whole.
    - ``hidden=0.5,heads=2,blocks.3.mlp=skip``: a share, or units, of the axes of some roles, and what stands
      in for some residual branches; all else stays whole.
    - ``384,384,192``: the units of each axis, in the order of the network.

    Raises:
        EdgevitError: when it is none of these, or asks for a width at which the axis is not nested.
    """
    words = [word.strip() for word in text.split(",")]
    branches: dict[str, Replacement] = {}
    if all("=" in word for word in words):
        branches = dict(_by_branch(text, words, nesting))
        asked = dict(_by_role(text, [word for word in words if _key(word) not in branches], nesting))
    elif len(words) == 1:
        asked = dict.fromkeys(nesting.widths, words[0])
    elif len(words) == len(nesting.widths):
        asked = dict(zip(nesting.widths, words, strict=True))
    else:
        raise EdgevitError(f"--submodel {text}: {len(words)} widths for {len(nesting.widths)} axes; {_FORMS}")
    found: dict[str, int | Replacement] = {name: widths[-1] for name, widths in nesting.widths.items()}
    found |= {name: _width(text, name, word, nesting) for name, word in asked.items()}
    return found | branches


def _key(word: str) -> str:
    return word.partition("=")[0]


def _by_branch(text: str, words: list[str], nesting: Nesting) -> Iterator[tuple[str, Replacement]]:
    replacements = nesting.replacements
    for word in words:
        name, _, value = word.partition("=")
        if name not in replacements:
            continue
        chosen = next((one for one in replacements[name] if one == value), None)
        if chosen is None:
            known = " or ".join(replacements[name])
            raise EdgevitError(f"--submodel {text}: {value!r} cannot stand in for {name}; give {known}")
        yield name, chosen


def _by_role(text: str, words: list[str], nesting: Nesting) -> Iterator[tuple[str, str]]:
    for word in words:
        role, _, value = word.partition("=")
        names = [name for name in nesting.widths if _role(name) == role]
        if not names:
            known = ", ".join([*sorted({_role(name) for name in nesting.widths}), *nesting.replacements])
            raise EdgevitError(
                f"--submodel {text}: {role!r} is no role of an axis and no branch; known: {known}"
            )
        yield from ((name, value) for name in names)


def _role(name: str) -> str:
    """Of an axis, which ends its name."""
    return name.rpartition(":")[2].partition("#")[0]


def _width(text: str, name: str, word: str, nesting: Nesting) -> int:
    allowed = nesting.widths[name]
    try:
        units = float(word) * allowed[-1] if "." in word else float(int(word))
    except ValueError as error:
        raise EdgevitError(f"--submodel {text}: {word!r} is no width; {_FORMS}") from error
    if units not in allowed:
        raise EdgevitError(
            f"--submodel {text}: {name} would have {units:g} of {allowed[-1]} units; it is nested at "
            f"{', '.join(map(str, allowed))}"
        )
    return int(units)
