"""Refuse a ``.pt2`` archive that would do more than describe a graph, before torch reads it.

``torch.export.load`` trusts its input: weights marked ``use_pickle`` and custom objects are unpickled,
example inputs fall back to unpickling, operator names are looked up by attribute from ``torch`` and
``operator`` (so ``torch.os.system`` resolves), shape expressions go through ``sympy.sympify`` and guards
through ``exec``, both of which evaluate Python, and AOTInductor payloads are native libraries. A file
that a user was handed must be able to do none of this, so everything those paths would see is checked
against what a plain ATen graph contains.

Source: ``torch/export/pt2_archive/_package.py`` and ``torch/_export/serde/serialize.py`` of torch 2.13.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

from edgevit.errors import EdgevitError

# The members of an archive that holds one exported program and nothing that runs by itself.
_MEMBERS = re.compile(
    r"""(archive_format | archive_version | byteorder | version | \.data/[\w.]+
    | models/model\.json
    | data/weights/(model_weights_config\.json | weight_\d+)
    | data/constants/(model_constants_config\.json | tensor_\d+)
    | data/sample_inputs/model\.pt
    | extra/[\w.-]+)""",
    re.VERBOSE,
)

# aten.from_file maps any file of the machine into memory, and can create one.
_TARGETS = re.compile(
    r"""torch\.ops\.aten\.(?!from_file\b)\w+\.\w+
    | torch\.ops\.quantized_decomposed\.\w+\.\w+
    | torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast)
    | torch\.sym_\w+
    | math\.(ceil|floor|trunc|sqrt)
    | _operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|getitem|eq|ne|lt|le|gt|ge|and_|or_)""",
    re.VERBOSE,
)

# What shape expressions are made of: symbols named s77 or u0, numbers, and sympy's arithmetic.
_EXPRESSION_NAMES = frozenset(
    (  # noqa: SIM905 - forty names read better in lines
        "Symbol Integer Float Rational Add Mul Pow Mod Max Min Abs Piecewise And Or Not Eq Ne Equality "
        "Unequality Lt Le Gt Ge StrictLessThan LessThan StrictGreaterThan GreaterThan true false "
        "FloorDiv CleanDiv CeilDiv ModularIndexing PythonMod Where IntTrueDiv FloatTrueDiv PowByNatural "
        "FloatPow TruncToInt FloorToInt CeilToInt RoundToInt ToFloat int_oo"
    ).split()
)
_SYMBOL = re.compile(r"[su]\d+|zuf\d+")
# What guards on input shapes are made of: L['args'][0][0].size()[0] <= 64.
_GUARD_NAMES = frozenset({"L"})
_GUARD_ATTRIBUTES = frozenset({"size", "stride", "dim", "shape", "ndim"})
_SYNTAX = (
    ast.Expression,
    ast.Constant,
    ast.Name,
    ast.Load,
    ast.Call,
    ast.keyword,
    ast.Attribute,
    ast.Subscript,
    ast.BinOp,
    ast.UnaryOp,
    ast.BoolOp,
    ast.Compare,
    ast.Tuple,
    ast.operator,
    ast.unaryop,
    ast.boolop,
    ast.cmpop,
)


def check_archive(stream: IO[bytes], origin: str) -> None:
    """Check an open archive and rewind it.

    Args:
        stream: the ``.pt2`` file, seekable.
        origin: its name in error sentences.

    Raises:
        EdgevitError: when it is no ``.pt2`` archive, is damaged, or holds anything but a graph of
            ATen operators with its tensors.
    """
    try:
        with zipfile.ZipFile(stream) as archive:
            _check_members(archive, origin)
    # A damaged directory reaches zipfile as odd names, unknown compression or encryption.
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise EdgevitError(f"{origin} is not a .pt2 archive, or is truncated") from error
    stream.seek(0)


def _check_members(archive: zipfile.ZipFile, origin: str) -> None:
    names = archive.namelist()
    root = names[0].split("/", 1)[0] + "/" if names else ""
    members = {name.removeprefix(root): name for name in names}
    if len(members) != len(names) or "models/model.json" not in members or "archive_format" not in members:
        raise EdgevitError(f"{origin} is not a torch.export archive (.pt2)")
    for member, name in members.items():
        if not name.startswith(root) or not _MEMBERS.fullmatch(member):
            raise EdgevitError(
                f"{origin} contains {member!r}, which is not part of an exported graph; it is refused"
            )
    damaged = archive.testzip()
    if damaged is not None:
        raise EdgevitError(f"{origin} is damaged: the checksum of {damaged!r} is wrong")
    for config in ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json"):
        if config in members:
            _check_payloads(_json(archive, members[config], origin), origin)
    if "data/sample_inputs/model.pt" in members:
        _check_example_inputs(archive.read(members["data/sample_inputs/model.pt"]), origin)
    _check_graph(_json(archive, members["models/model.json"], origin), origin)


def _json(archive: zipfile.ZipFile, member: str, origin: str) -> Any:
    try:
        return json.loads(archive.read(member))
    except ValueError as error:
        raise EdgevitError(f"{origin} is damaged: {member!r} is not JSON") from error


def _check_payloads(config: Any, origin: str) -> None:
    if any(value is not False for value in _values_at(config, "use_pickle")):
        raise EdgevitError(
            f"{origin} stores a tensor as a pickle, which could run code when read; "
            "save it again with plain tensors (edgevit never unpickles)"
        )


def _check_example_inputs(data: bytes, origin: str) -> None:
    import pickle

    import torch

    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise EdgevitError(
            f"{origin} has example inputs that need unpickling, which could run code; "
            "export it again with plain tensor inputs"
        ) from error


def _check_graph(model: Any, origin: str) -> None:
    for value in _values_at(model, "target"):
        if not _TARGETS.fullmatch(str(value)):
            raise EdgevitError(
                f"{origin} calls {value!r}, which is not an ATen operator; only plain ATen graphs are read"
            )
    for value in _values_at(model, "expr_str"):
        _check_expression(str(value), _EXPRESSION_NAMES, frozenset(), origin)
    for values in _values_at(model, "guards_code"):
        for value in values if isinstance(values, list) else [values]:
            _check_expression(str(value), _GUARD_NAMES, _GUARD_ATTRIBUTES, origin)


def _values_at(tree: Any, key: str) -> Iterator[Any]:
    """Every value stored under `key` anywhere in parsed JSON."""
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            if key in node:
                yield node[key]
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)


def _check_expression(text: str, names: frozenset[str], attributes: frozenset[str], origin: str) -> None:
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        nodes = [ast.Import(names=[])]
    for node in nodes:
        known = isinstance(node, _SYNTAX)
        if isinstance(node, ast.Name):
            known = node.id in names or bool(_SYMBOL.fullmatch(node.id))
        elif isinstance(node, ast.Attribute):
            known = node.attr in attributes
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # sympy evaluates strings again, so only symbol names may stand there; in a guard a string is
            # the name of an input.
            known = node.value.isidentifier() if attributes else bool(_SYMBOL.fullmatch(node.value))
        if not known:
            raise EdgevitError(f"{origin} has the shape expression {text!r}, which is not plain arithmetic")
