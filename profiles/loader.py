"""Device profiles found by name, alias or path, and refused with the line of what is wrong."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from edgevit.errors import EdgevitError, closest
from edgevit.files import existing_file
from edgevit.profiles.schema import PROFILE_VERSION, DeviceProfile, Loc, canonical, shown

MAX_BYTES = 1_000_000
MAX_DEPTH = 20

_FOLDER = Path(__file__).parent

# The same rules in C where PyYAML was built with libyaml: a megabyte in 2 seconds instead of 16.
_Yaml: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_PROBLEMS = {
    "missing": "missing; add it",
    "string_type": "must be text (in quotes), not {value}",
    "int_type": "must be a whole number, not {value}",
    "float_type": "must be a number, not {value}",
    "finite_number": "must be a finite number, not {value}",
    "greater_than": "must be above {gt:g}, not {value}",
    "tuple_type": "must be a list, not {value}",
    "too_short": "must have at least one entry",
    "model_type": "must be a mapping of keys to values, not {value}",
    "dict_type": "must be a mapping of keys to values, not {value}",
}


def load_profile(name_or_path: str | Path) -> DeviceProfile:
    """The profile of a device that edgevit knows, or of the user's own file.

    Args:
        name_or_path: a name or alias, in any case and with any separators ("Pixel 8", "pixel_8"); or
            a file, recognised by a folder in it or by ending in .yaml or .yml.

    Raises:
        EdgevitError: when no device has this name, or the file is not a valid profile.
    """
    path = Path(name_or_path)
    if isinstance(name_or_path, Path) or path.suffix in {".yaml", ".yml"} or path.name != name_or_path:
        return _read_profile(path)
    wanted = canonical(name_or_path)
    # A full name is found without reading every other device's file.
    for name in device_names():
        if canonical(name) == wanted:
            return _shipped(name)
    by_name = index(devices())
    if wanted not in by_name:
        known = {name for profile in devices() for name in (profile.name, *profile.aliases)}
        raise EdgevitError(
            f"unknown device {shown(name_or_path)} (`edgevit devices` lists them); "
            f"{closest(name_or_path.lower(), known)}"
        )
    return by_name[wanted]


def device_names() -> tuple[str, ...]:
    """Names of the devices that edgevit knows, sorted; their files are not read."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def devices() -> tuple[DeviceProfile, ...]:
    """Every device that edgevit knows, sorted by name."""
    return tuple(_shipped(name) for name in device_names())


def index(profiles: Iterable[DeviceProfile]) -> dict[str, DeviceProfile]:
    """Profiles by the canonical form of their names and aliases.

    Raises:
        EdgevitError: when two devices share one.
    """
    found: dict[str, DeviceProfile] = {}
    for profile in profiles:
        for name in (profile.name, *profile.aliases):
            other = found.setdefault(canonical(name), profile)
            if other is not profile:
                raise EdgevitError(f'"{name}" names both {other.name} and {profile.name}; rename one of them')
    return found


@functools.cache
def _shipped(name: str) -> DeviceProfile:
    return _read_profile(_FOLDER / f"{name}.yaml")


def _read_profile(path: Path) -> DeviceProfile:
    data, lines = _parse(path, _read_text(path))
    _check_version(path, data, lines)
    try:
        return DeviceProfile.model_validate(data)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = f"{_at(path, lines, fault['loc'])}: {_dotted(fault['loc'])}"
        raise EdgevitError(f"{where}: {_problem(fault)}") from error


def _read_text(path: Path) -> str:
    try:
        with existing_file(path, "device profile").open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise EdgevitError(f"device profile: {path} cannot be read ({error.strerror})") from error
    if len(content) > MAX_BYTES:
        raise EdgevitError(f"{path} is larger than {MAX_BYTES} bytes; a device profile is a few kilobytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EdgevitError(f"{path} is not text in UTF-8; a device profile is a YAML file") from error
    if not text.strip():
        raise EdgevitError(f"{path} is empty; a device profile starts with `version: {PROFILE_VERSION}`")
    return text


def _parse(path: Path, text: str) -> tuple[dict[str, Any], dict[Loc, int]]:
    """The file's mapping, and the line of every key and list entry in it."""
    try:
        _check_events(path, text)
        walk = _Walk(path, _Yaml(text))
        return walk.root(), walk.lines
    except yaml.MarkedYAMLError as error:
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        line = _line(error.problem_mark or error.context_mark)
        raise EdgevitError(f"{path}, line {line}: not valid YAML: {problem}") from error
    except yaml.YAMLError as error:
        raise EdgevitError(f"{path} is not a text file; a device profile is a YAML file") from error


def _check_events(path: Path, text: str) -> None:
    # Events come without recursion and with aliases unexpanded: nothing is built from a file made to
    # exhaust memory or the stack.
    depth = 0
    for event in yaml.parse(text, Loader=_Yaml):
        where = f"{path}, line {_line(event.start_mark)}"
        if getattr(event, "anchor", None) is not None:
            raise EdgevitError(f"{where}: anchors and aliases (& and *) are not allowed; write the value out")
        if getattr(event, "tag", None) is not None:
            raise EdgevitError(f"{where}: tags (!) are not allowed; write a plain value, or text in quotes")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise EdgevitError(f"{where}: nested more than {MAX_DEPTH} deep; a profile needs 5")


class _Walk:
    """Plain values out of YAML nodes; `lines` has the line of each by its place."""

    def __init__(self, path: Path, loader: Any) -> None:
        self.lines: dict[Loc, int] = {}
        self._path = path
        self._loader = loader

    def root(self) -> dict[str, Any]:
        node = self._loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise EdgevitError(
                f"{self._path} is not a device profile; one is a mapping such as `name: pixel-8`"
            )
        self.lines[()] = _line(node.start_mark)
        return self._mapping(node, ())

    def _value(self, node: yaml.Node, loc: Loc) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, loc)
        if isinstance(node, yaml.SequenceNode):
            return [self._entry(item, (*loc, place)) for place, item in enumerate(node.value)]
        return self._scalar(node)

    def _entry(self, node: yaml.Node, loc: Loc) -> Any:
        self.lines[loc] = _line(node.start_mark)
        return self._value(node, loc)

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            where = f"{self._path}, line {_line(key_node.start_mark)}"
            key = self._scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                raise EdgevitError(f"{where}: every key must be text; put it in quotes")
            if key in values:
                first = self.lines[*loc, key]
                raise EdgevitError(f"{where}: key {shown(key)} is already on line {first}; keep one of them")
            self.lines[*loc, key] = _line(key_node.start_mark)
            values[key] = self._value(value_node, (*loc, key))
        return values

    def _scalar(self, node: yaml.Node) -> Any:
        try:
            return self._loader.construct_object(node)
        except (ValueError, OverflowError) as error:  # the 13th month, a number of 5,000 digits
            where = f"{self._path}, line {_line(node.start_mark)}"
            raise EdgevitError(
                f"{where}: {shown(node.value)} looks like a number or a date but is none; put it in quotes"
            ) from error


def _check_version(path: Path, data: dict[str, Any], lines: dict[Loc, int]) -> None:
    # First of all: the keys of another version would be refused as unknown ones.
    version = data.get("version")
    if version is None:
        raise EdgevitError(f"{path}, line 1: version: missing; add `version: {PROFILE_VERSION}`")
    if type(version) is not int or version != PROFILE_VERSION:
        raise EdgevitError(
            f"{_at(path, lines, ('version',))}: version: {shown(version)} is not supported; "
            f"this edgevit reads version {PROFILE_VERSION}"
        )


def _line(mark: Any) -> int:
    return mark.line + 1 if mark else 1


def _at(path: Path, lines: dict[Loc, int], loc: Loc) -> str:
    # A missing key has no line: its mapping's is the closest.
    while loc not in lines:
        loc = loc[:-1]
    return f"{path}, line {lines[loc]}"


def _dotted(loc: Loc) -> str:
    """A place as people write it: ``cpu.clusters[0].count``."""
    place = ""
    for part in loc:
        place += f"[{part}]" if isinstance(part, int) else f".{part if part.isprintable() else shown(part)}"
    return place.removeprefix(".")


def _problem(fault: ErrorDetails) -> str:
    kind, value = fault["type"], shown(fault["input"])
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", fault["ctx"]["expected"])
        return f"{value} is not one of the choices; {closest(str(fault['input']), choices)}"
    if kind in _PROBLEMS:
        return _PROBLEMS[kind].format(value=value, **fault.get("ctx", {}))
    return fault["msg"]
