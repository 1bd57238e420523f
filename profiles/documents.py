"""YAML files that people write: read within limits, validated, refused with the line of what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from edgevit.errors import EdgevitError, closest
from edgevit.files import existing_file, staged_file

Loc = tuple[int | str, ...]

MAX_BYTES = 1_000_000
MAX_DEPTH = 20

# The same rules in C where PyYAML was built with libyaml: a megabyte in 2 seconds instead of 16.
_Yaml: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_PROBLEMS = {
    "missing": "missing; add it",
    "string_type": "must be text (in quotes), not {value}",
    "int_type": "must be a whole number, not {value}",
    "float_type": "must be a number, not {value}",
    "finite_number": "must be a finite number, not {value}",
    "greater_than": "must be above {gt:g}, not {value}",
    "greater_than_equal": "must be at least {ge:g}, not {value}",
    "tuple_type": "must be a list, not {value}",
    "too_short": "must have at least one entry",
    "model_type": "must be a mapping of keys to values, not {value}",
    "dict_type": "must be a mapping of keys to values, not {value}",
}


def shown(value: object) -> str:
    """A value from a file as an error repeats it: on one line, quoted, cut after 60 characters."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = json.dumps(value, ensure_ascii=not str(value).isprintable(), default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def like(pattern: str, right: str) -> AfterValidator:
    """A check that a text matches a pattern; `right` says in words what would."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise PydanticCustomError("document", "{problem}", {"problem": f"{right}, not {shown(text)}"})
        return text

    return AfterValidator(check)


def fault(loc: Loc, problem: str) -> ValidationError:
    """An error at `loc` inside the model being checked; pydantic puts the model's own place before it."""
    kind = PydanticCustomError("document", "{problem}", {"problem": problem})
    return ValidationError.from_exception_data("document", [InitErrorDetails(type=kind, loc=loc, input=None)])


Text = Annotated[
    str, like(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+", "must be some text on one line")
]
Url = Annotated[str, like(r"https://[^\s/]+/\S*", "must be an address such as https://example.org/page")]


class Strict(BaseModel):
    """A mapping whose every key is known."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _keys_are_known(cls, data: Any) -> Any:
        # Before anything else: a misspelt key would be reported as another one missing.
        for key in data if isinstance(data, dict) else ():
            if key not in cls.model_fields:
                raise fault((key,), f"unknown key; {closest(key, cls.model_fields)}")
        return data


@dataclass(frozen=True)
class Document:
    """What a kind of file is called in errors, and what is right for it.

    Attributes:
        noun: "device profile".
        version: the only one that is read; None where such files have none.
        example: a line that such a file has.
        depth: how deep one needs to be nested.
        most_bytes: beyond which one is not read.
    """

    noun: str
    version: int | None
    example: str
    depth: int
    most_bytes: int = MAX_BYTES

    @property
    def a(self) -> str:
        """The noun with its article."""
        return f"a {self.noun}"

    @property
    def start(self) -> str:
        """What such a file starts with."""
        return self.example if self.version is None else f"version: {self.version}"


M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Located(Generic[M]):
    """What a file says, and in which line it says what.

    Attributes:
        value: the whole file.
        path: of the file.
        lines: of every key and list entry.
    """

    value: M
    path: Path
    lines: Mapping[Loc, int]

    def error(self, loc: Loc, problem: str) -> EdgevitError:
        """An error at a place of the file; without a line of its own it is told that of what it is in."""
        return EdgevitError(f"{_at(self.path, self.lines, loc)}: {dotted(loc)}: {problem}")


#: Context of a validation whose caller says itself where a mistake stands: in which line, in which option.
PLACED_BY_CALLER = {"placed_by_caller": True}


def read_document(path: Path, model: type[M], document: Document) -> M:
    """Read and validate a file.

    Raises:
        EdgevitError: naming the file, the line and the key of the first thing that is wrong.
    """
    return read_located(path, model, document).value


def read_located(path: Path, model: type[M], document: Document) -> Located[M]:
    """The same with the lines, for what can only be checked beside other files.

    Raises:
        EdgevitError: as `read_document` does.
    """
    data, lines = _parse(path, _read_text(path, document), document)
    if document.version is not None:
        _check_version(path, data, lines, document)
    try:
        return Located(model.model_validate(data, context=PLACED_BY_CALLER), path, lines)
    except ValidationError as error:
        loc, problem = first_problem(error)
        raise EdgevitError(f"{_at(path, lines, loc)}: {dotted(loc)}: {problem}") from error


def write_document(path: Path, version: int, value: BaseModel) -> None:
    """Write a file that `read_document` reads, whole or not at all; what is as by default is left out.

    Raises:
        EdgevitError: when it cannot be written.
    """
    data = value.model_dump(mode="json", exclude_defaults=True)
    text = yaml.dump({"version": version, **data}, sort_keys=False, width=110, allow_unicode=True)
    with staged_file(path) as staged:
        staged.write_text(text, encoding="utf-8")


def first_problem(error: ValidationError) -> tuple[Loc, str]:
    """Where the first thing is that is wrong, and what."""
    first = error.errors(include_url=False)[0]
    return first["loc"], _problem(first)


def _read_text(path: Path, document: Document) -> str:
    try:
        with existing_file(path, document.noun).open("rb") as stream:
            content = stream.read(document.most_bytes + 1)
    except OSError as error:
        raise EdgevitError(f"{document.noun}: {path} cannot be read ({error.strerror})") from error
    if len(content) > document.most_bytes:
        raise EdgevitError(
            f"{path} is larger than {document.most_bytes} bytes; {document.a} is a few kilobytes"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EdgevitError(f"{path} is not text in UTF-8; {document.a} is a YAML file") from error
    if not text.strip():
        raise EdgevitError(f"{path} is empty; {document.a} starts with `{document.start}`")
    return text


def _parse(path: Path, text: str, document: Document) -> tuple[dict[str, Any], dict[Loc, int]]:
    """The file's mapping, and the line of every key and list entry in it."""
    try:
        _check_events(path, text, document)
        walk = _Walk(path, _Yaml(text), document)
        return walk.root(), walk.lines
    except yaml.MarkedYAMLError as error:
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        line = _line(error.problem_mark or error.context_mark)
        raise EdgevitError(f"{path}, line {line}: not valid YAML: {problem}") from error
    except yaml.YAMLError as error:
        raise EdgevitError(f"{path} is not a text file; {document.a} is a YAML file") from error


def _check_events(path: Path, text: str, document: Document) -> None:
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
            raise EdgevitError(
                f"{where}: nested more than {MAX_DEPTH} deep; {document.a} needs {document.depth}"
            )


class _Walk:
    """Plain values out of YAML nodes; `lines` has the line of each by its place."""

    def __init__(self, path: Path, loader: Any, document: Document) -> None:
        self.lines: dict[Loc, int] = {}
        self._path = path
        self._loader = loader
        self._document = document

    def root(self) -> dict[str, Any]:
        node = self._loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise EdgevitError(
                f"{self._path} is not {self._document.a}; one is a mapping such as `{self._document.example}`"
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


def _check_version(path: Path, data: dict[str, Any], lines: dict[Loc, int], document: Document) -> None:
    # First of all: the keys of another version would be refused as unknown ones.
    version = data.get("version")
    if version is None:
        raise EdgevitError(f"{path}, line 1: version: missing; add `version: {document.version}`")
    if type(version) is not int or version != document.version:
        raise EdgevitError(
            f"{_at(path, lines, ('version',))}: version: {shown(version)} is not supported; "
            f"this edgevit reads version {document.version}"
        )


def _line(mark: Any) -> int:
    return mark.line + 1 if mark else 1


def _at(path: Path, lines: Mapping[Loc, int], loc: Loc) -> str:
    # A missing key has no line: its mapping's is the closest.
    while loc not in lines:
        loc = loc[:-1]
    return f"{path}, line {lines[loc]}"


def dotted(loc: Loc) -> str:
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
