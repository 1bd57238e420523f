"""Files of stages and parts, exported once and found again: a coordinator that restarts exports nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgevit.errors import EdgevitError
from edgevit.files import sha256_of
from edgevit.graph.program import Program
from edgevit.runtime.lanes import Piece
from edgevit.runtime.messages import FORMATS, Artefact


class Workshop:
    """Makes pieces of a model in a folder.

    Args:
        folder: that exports go to, a folder each.
        model: SHA-256 of what pieces are made of: those of another model are not taken for its own.
        items: images that travel together.
    """

    def __init__(self, folder: Path, model: str, items: int) -> None:
        self._folder, self.model, self._items = folder, model, items
        self._made: dict[str, Piece] = {}

    def piece(self, name: str, format_: str, precision: str, make: Callable[[], Program]) -> Piece:
        """A piece, exported and verified where it is not there.

        Args:
            name: of the piece, unlike that of any other of the model.
            format_: of its file.
            precision: likewise.
            make: what is exported.

        Raises:
            EdgevitError: when workers do not run the format, or the export fails.
            CheckFailedError: when the file does not compute what the Program does.
        """
        if format_ not in FORMATS:
            raise EdgevitError(
                f"format {format_}: workers run {' and '.join(FORMATS)}; plan for one of these"
            )
        key = f"{self.model[:16]}-{name}-{format_}-{precision}-{self._items}"
        if key not in self._made:
            self._made[key] = self._found(key, format_, precision, make)
        return self._made[key]

    def _found(self, key: str, format_: str, precision: str, make: Callable[[], Program]) -> Piece:
        from edgevit.export import export
        from edgevit.export.artefacts import check_artefact
        from edgevit.export.metadata import METADATA_FILE, Metadata

        folder = self._folder / key
        if not (folder / METADATA_FILE).is_file():
            export(
                make(),
                to=(format_,),
                output=folder,
                batch=self._batch(format_),
                precision=precision,
                strict=True,
            )
        metadata = Metadata.read(folder / METADATA_FILE)
        path = check_artefact(folder / next(iter(metadata.artefacts)))
        artefact = Artefact(sha256_of(path), format_, path.stat().st_size)
        return Piece(path, artefact, tuple(metadata.card.inputs), tuple(metadata.card.outputs))

    def _batch(self, format_: str) -> int | None:
        if format_ == "tflite" and self._items > 1:
            raise EdgevitError(f"{self._items} images travel together: TFLite files take one; plan for one")
        return self._items if format_ == "onnx" else None
