"""TFLite metadata: labels and preprocessing inside the file, where apps look for them.

The convention (TensorFlow Lite Support's ``metadata_schema.fbs``, version 1): a flatbuffer with the
identifier M001 in the model's buffer that the metadata entry ``TFLITE_METADATA`` names, and the files it
speaks of in an uncompressed zip archive appended to the model. Normalisation is in the units of pixels,
0 to 255: ``(pixel - mean) / std``. The card travels in the same archive.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgevit.export.tflite.check import IDENTIFIER, METADATA_NAME, checked_model, open_archive, seal
from edgevit.export.tflite.flat import FlatError, Table
from edgevit.graph.card import IMAGE, Card, Preprocessing

Layout = Literal["nchw", "nhwc"]

CARD_FILE = "edgevit_card.json"
LABELS_FILE = "labels.txt"
_METADATA_IDENTIFIER = b"M001"
# The first version of the schema has every field that is written here.
_MIN_PARSER_VERSION = "1.0.0"
_DESCRIPTIONS, _TENSOR_AXIS_LABELS = 1, 2
_IMAGE_PROPERTIES, _NORMALIZATION_OPTIONS = 2, 1
_COLOR_SPACES = {3: 1, 1: 2}
_DIMENSIONS = {"n": "batch", "t": "frames", "c": "channels", "h": "height", "w": "width"}
# The earliest time an archive can hold: the same model gives the same bytes.
_EPOCH = (1980, 1, 1, 0, 0, 0)

# A field of a table: the place of what was written before, or how to write a number in place.
_Field = int | Callable[[Any, int], None]


def order_from(layout: Layout, rank: int) -> tuple[int, ...]:
    """The permutation that brings a stored input to channels first, images (4) and clips (5) alike.

    >>> order_from("nhwc", 4), order_from("nhwc", 5), order_from("nchw", 4)
    ((0, 3, 1, 2), (0, 1, 4, 2, 3), (0, 1, 2, 3))
    """
    outer = range(rank - 3)
    image = (0, 1, 2) if layout == "nchw" else (2, 0, 1)
    return (*outer, *(len(outer) + axis for axis in image))


@dataclass(frozen=True)
class TfliteMetadata:
    """What a file's metadata says, whoever wrote it.

    Attributes:
        name: the model's.
        licence: its licence.
        dimensions: names of the input's dimensions, empty where they are not said.
        mean: per channel, in the units of pixels 0 to 255.
        std: likewise.
        labels: class names in the order of the first output, or None.
    """

    name: str | None
    licence: str | None
    dimensions: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: tuple[str, ...] | None


def read_metadata(path: str | Path) -> TfliteMetadata | None:
    """The metadata of a TFLite file, or None where it has none.

    Raises:
        EdgevitError: when it is not a sound TFLite file.
    """
    content = Path(path).read_bytes()
    return metadata_in(content, checked_model(content, str(path)))


def metadata_in(content: bytes, flatbuffer: bytes) -> TfliteMetadata | None:
    """The metadata in a file's content, given its checked flatbuffer."""
    try:
        root = _metadata_root(flatbuffer)
        return None if root is None else _read(root, content)
    # Someone else's metadata is theirs to get right: the model runs without.
    except FlatError:
        return None


def card_in(content: bytes, origin: str) -> Card | None:
    """The card in a file's archive, or None where there is none.

    Raises:
        EdgevitError: when it is not a valid card.
    """
    text = _member(content, CARD_FILE)
    return None if text is None else Card.from_json(text, origin)


def _metadata_root(flatbuffer: bytes) -> Table | None:
    model = Table.root(flatbuffer, IDENTIFIER)
    entries = {entry.text(0): entry.scalar(1, "I") for entry in model.tables(6)}
    if METADATA_NAME not in entries:
        return None
    data = model.tables(4)[entries[METADATA_NAME]].vector(0, "B")
    return None if data is None else Table.root(data, _METADATA_IDENTIFIER)


def _read(root: Table, content: bytes) -> TfliteMetadata:
    graph = next(iter(root.tables(3)), None)
    inputs, outputs = (graph.tables(2), graph.tables(3)) if graph else ([], [])
    units = inputs[0].tables(4) if inputs else []
    options = [unit.table(1) for unit in units if unit.scalar(0, "B") == _NORMALIZATION_OPTIONS]
    normalization = next((option for option in options if option is not None), None)
    files = outputs[0].tables(6) if outputs else []
    labels = next((file.text(0) for file in files if file.scalar(2, "b") == _TENSOR_AXIS_LABELS), None)
    text = _member(content, labels) if labels else None
    return TfliteMetadata(
        name=root.text(0),
        licence=root.text(5),
        dimensions=tuple(inputs[0].texts(2)) if inputs else (),
        mean=normalization.numbers(0, "f") if normalization else (),
        std=normalization.numbers(1, "f") if normalization else (),
        labels=None if text is None else tuple(text.decode("utf-8", "replace").splitlines()),
    )


def _member(content: bytes, name: str) -> bytes | None:
    archive = open_archive(content)
    if archive is None:
        return None
    with archive:
        return archive.read(name) if name in archive.namelist() else None


def append_files(flatbuffer: bytes, card: Card) -> bytes:
    """The file: the flatbuffer, and behind it the archive of the card and the labels."""
    files = {CARD_FILE: card.model_dump_json(indent=1)}
    if card.labels is not None:
        # One a line is the convention: a label cannot have two.
        files[LABELS_FILE] = "".join(f"{' '.join(label.split())}\n" for label in card.labels)
    stream = io.BytesIO(flatbuffer)
    with zipfile.ZipFile(stream, "a") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name, date_time=_EPOCH), text)
        archive.comment = seal(flatbuffer)
    return stream.getvalue()


def metadata_flatbuffer(card: Card, layout: Layout) -> bytes:
    """The metadata of a classifier or a stage of one, as a flatbuffer."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    write = _Writer(builder)
    about = {0: write.text(CARD_FILE), 1: write.text("edgevit's card"), 2: _byte(_DESCRIPTIONS)}
    card_file = write.table(about)
    outputs = [_output(write, card, index) for index in range(len(card.outputs))]
    inputs = [
        _input(write, card.preprocessing, layout) if name == IMAGE else _tensor(write, name)
        for name in card.inputs
    ]
    graph = write.table({2: write.offsets(inputs), 3: write.offsets(outputs)})
    model: dict[int, _Field] = {
        0: write.text(card.name),
        1: write.text(f"{_kind(card)} from {card.provenance.source}"),
        3: write.offsets([graph]),
        6: write.offsets([card_file]),
        7: write.text(_MIN_PARSER_VERSION),
    }
    if card.licence is not None:
        model[5] = write.text(card.licence)
    builder.Finish(write.table(model), file_identifier=_METADATA_IDENTIFIER)
    return bytes(builder.Output())


def _kind(card: Card) -> str:
    return "Image classifier" if card.stage is None else f"Stage {card.stage} of an image classifier"


def _tensor(write: _Writer, name: str) -> int:
    return write.table({0: write.text(name), 1: write.text("Tensor between stages")})


def _input(write: _Writer, preprocessing: Preprocessing, layout: Layout) -> int:
    clip = preprocessing.frames is not None
    axes = layout.replace("n", "nt") if clip else layout
    mean = [255 * value for value in preprocessing.mean]
    std = [255 * value for value in preprocessing.std]
    options = write.table({0: write.floats(mean), 1: write.floats(std)})
    normalization = write.table({0: _byte(_NORMALIZATION_OPTIONS), 1: options})
    highest = [(255 - centre) / spread for centre, spread in zip(mean, std, strict=True)]
    lowest = [-centre / spread for centre, spread in zip(mean, std, strict=True)]
    stats = write.table({0: write.floats(highest), 1: write.floats(lowest)})
    fields: dict[int, _Field] = {
        0: write.text("image"),
        1: write.text(f"Image: {preprocessing.describe()} (mean and std of values scaled to 0..1)"),
        2: write.offsets([write.text(_DIMENSIONS[axis]) for axis in axes]),
        4: write.offsets([normalization]),
        5: stats,
    }
    # The convention knows no clips: one described as an image would be fed one.
    if not clip:
        fields[3] = _image_properties(write, preprocessing)
    return write.table(fields)


def _image_properties(write: _Writer, preprocessing: Preprocessing) -> int:
    height, width = preprocessing.input_size
    size = write.table({0: _uint(width), 1: _uint(height)})
    image = write.table({0: _byte(_COLOR_SPACES[preprocessing.channels]), 1: size})
    return write.table({0: _byte(_IMAGE_PROPERTIES), 1: image})


def _output(write: _Writer, card: Card, index: int) -> int:
    if not card.gives_logits:
        return _tensor(write, card.outputs[index])
    fields: dict[int, _Field] = {0: write.text(card.outputs[index])}
    if index == 0:
        fields[1] = write.text("Score of each class, before softmax")
        if card.labels is not None:
            about = {0: write.text(LABELS_FILE), 1: write.text("Class names"), 2: _byte(_TENSOR_AXIS_LABELS)}
            fields[6] = write.offsets([write.table(about)])
    return write.table(fields)


def _byte(value: int) -> _Field:
    return lambda builder, slot: builder.PrependInt8Slot(slot, value, 0)


def _uint(value: int) -> _Field:
    return lambda builder, slot: builder.PrependUint32Slot(slot, value, 0)


@dataclass(frozen=True)
class _Writer:
    """Tables by field number, children first, as the format has it."""

    builder: Any

    def text(self, value: str) -> int:
        return int(self.builder.CreateString(value))

    def floats(self, values: Sequence[float]) -> int:
        self.builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            self.builder.PrependFloat32(value)
        return int(self.builder.EndVector())

    def offsets(self, places: Sequence[int]) -> int:
        self.builder.StartVector(4, len(places), 4)
        for place in reversed(places):
            self.builder.PrependUOffsetTRelative(place)
        return int(self.builder.EndVector())

    def table(self, fields: dict[int, _Field]) -> int:
        self.builder.StartObject(max(fields) + 1)
        for slot, field in fields.items():
            if callable(field):
                field(self.builder, slot)
            else:
                self.builder.PrependUOffsetTRelativeSlot(slot, field, 0)
        return int(self.builder.EndObject())
