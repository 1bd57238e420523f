"""The tables that come with edgevit, one YAML file each, by runtime and by what the runtime is asked for."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

from edgevit.errors import EdgevitError
from edgevit.export.placement.schema import TABLE_VERSION, Table
from edgevit.profiles.documents import Document, read_document

FOLDER = Path(__file__).parent / "tables"

_DOCUMENT = Document(noun="placement table", version=TABLE_VERSION, example="runtime: litert", depth=5)


@functools.cache
def tables() -> tuple[Table, ...]:
    """Every table, sorted by file name.

    Raises:
        EdgevitError: naming the file, line and key of what is wrong, or the backend that two tables claim.
    """
    found = tuple(read_table(path) for path in sorted(FOLDER.glob("*.yaml")))
    index(found)
    return found


def read_table(path: Path) -> Table:
    """One table from its file.

    Raises:
        EdgevitError: naming the file, line and key of what is wrong.
    """
    return read_document(path, Table, _DOCUMENT)


def index(found: Iterable[Table]) -> dict[tuple[str, str], Table]:
    """Tables by runtime and `via`.

    Raises:
        EdgevitError: when two are of one backend.
    """
    by_backend: dict[tuple[str, str], Table] = {}
    for table in found:
        for via in table.via:
            if (table.runtime, via) in by_backend:
                raise EdgevitError(f"two placement tables are of {table.runtime} via {via}; remove one")
            by_backend[table.runtime, via] = table
    return by_backend
