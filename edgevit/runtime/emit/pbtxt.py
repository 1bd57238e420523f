"""Messages in protobuf's text format: https://protobuf.dev/reference/protobuf/textformat-spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


class Word(str):
    """A name of an enumeration: written without quotes."""

    __slots__ = ()


def write_message(fields: Mapping[str, object]) -> str:
    """A message as text.

    Args:
        fields: by name: text, `Word`, whole numbers, mappings for messages, and lists of any of these.

    >>> print(write_message({"name": "a", "input": [{"data_type": Word("TYPE_FP32"), "dims": [1, 3]}]}))
    name: "a"
    input {
      data_type: TYPE_FP32
      dims: 1
      dims: 3
    }
    <BLANKLINE>
    """
    return "".join(f"{line}\n" for line in _lines(fields))


def _lines(fields: Mapping[str, object]) -> Iterator[str]:
    for name, value in fields.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, Mapping):
                yield f"{name} {{"
                yield from (f"  {line}" for line in _lines(each))
                yield "}"
            else:
                yield f"{name}: {_scalar(each)}"


def _scalar(value: object) -> str:
    if isinstance(value, Word) or not isinstance(value, str):
        return str(value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
