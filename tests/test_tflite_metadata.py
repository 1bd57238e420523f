import io
import zipfile

import numpy as np
import pytest

from edgevit.errors import EdgevitError
from edgevit.export.tflite.check import checked_model
from edgevit.export.tflite.flat import FlatError, Table
from edgevit.export.tflite.metadata import append_files, card_in, metadata_flatbuffer, metadata_in
from edgevit.graph.card import Card, Preprocessing, Provenance

flatbuffers = pytest.importorskip("flatbuffers")
schema = pytest.importorskip("ai_edge_litert.schema_py_generated")


def card(**changes) -> Card:
    fields = {
        "name": "tiny",
        "preprocessing": Preprocessing(
            input_size=(20, 24), resize_to=32, mean=(0.5, 0.25, 0), std=(0.5, 0.25, 1)
        ),
        "labels": ("tench", "great white shark", "été\nindien"),
        "licence": "apache-2.0",
        "provenance": Provenance(source="test", weights="none", weights_sha256="0" * 64, tools={}),
    }
    return Card(**(fields | changes))


def tflite_file(card: Card, layout="nhwc") -> bytes:
    """A model without operators, whose input is its output, with the metadata of a classifier."""
    from edgevit.export.tflite.model import add_buffer, serialise

    tensor = schema.TensorT(shape=[1, 3], type=schema.TensorType.FLOAT32, name=b"image", buffer=0)
    graph = schema.SubGraphT(tensors=[tensor], inputs=[0], outputs=[0], operators=[])
    model = schema.ModelT(version=3, operatorCodes=[], subgraphs=[graph], buffers=[schema.BufferT()])
    entry = schema.MetadataT(name=b"TFLITE_METADATA")
    entry.buffer = add_buffer(model, np.frombuffer(metadata_flatbuffer(card, layout), dtype=np.uint8))
    model.metadata = [entry]
    return append_files(serialise(model), card)


def metadata_of(content: bytes):
    return metadata_in(content, checked_model(content, "file"))


def test_metadata_reads_back_in_the_conventions_units():
    metadata = metadata_of(tflite_file(card()))
    assert (metadata.name, metadata.licence) == ("tiny", "apache-2.0")
    assert metadata.dimensions == ("batch", "height", "width", "channels")
    np.testing.assert_allclose(metadata.mean, (127.5, 63.75, 0))
    np.testing.assert_allclose(metadata.std, (127.5, 63.75, 255))


def test_normalising_pixels_as_the_metadata_says_equals_the_cards_preprocessing():
    metadata, preprocessing = metadata_of(tflite_file(card())), card().preprocessing
    pixels = np.arange(256)[:, None]
    theirs = (pixels - np.array(metadata.mean)) / np.array(metadata.std)
    ours = (pixels / 255 - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    np.testing.assert_allclose(theirs, ours, atol=1e-6)


def test_labels_are_one_a_line():
    assert metadata_of(tflite_file(card())).labels == ("tench", "great white shark", "été indien")


def test_a_card_without_labels_gives_metadata_without_labels():
    content = tflite_file(card(labels=None))
    assert metadata_of(content).labels is None
    assert zipfile.ZipFile(io.BytesIO(content)).namelist() == ["edgevit_card.json"]


def test_dimension_names_follow_the_layout():
    metadata = metadata_of(tflite_file(card(), "nchw"))
    assert metadata.dimensions == ("batch", "channels", "height", "width")


def test_the_card_reads_back():
    assert card_in(tflite_file(card()), "file") == card()


def test_files_are_stored_uncompressed_behind_the_model_as_apps_expect():
    content = tflite_file(card())
    archive = zipfile.ZipFile(io.BytesIO(content))
    assert archive.namelist() == ["edgevit_card.json", "labels.txt"]
    assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}
    assert content[4:8] == b"TFL3"


def test_the_same_card_gives_the_same_bytes():
    assert tflite_file(card()) == tflite_file(card())


def test_a_grey_model_says_so():
    grey = Preprocessing(input_size=(8, 8), resize_to=None, mean=(0.5,), std=(0.5,))
    content = metadata_flatbuffer(card(preprocessing=grey), "nhwc")
    image = Table.root(content, b"M001").tables(3)[0].tables(2)[0].table(3).table(1)
    assert image.scalar(0, "b") == 2


@pytest.mark.parametrize("keep", [0, 7, 100, 0.3, 0.6, -1, -30])
def test_a_truncated_file_is_refused_in_one_sentence(keep):
    content = tflite_file(card())
    length = int(keep * len(content)) if isinstance(keep, float) else keep
    with pytest.raises(EdgevitError, match=r"^a\.tflite is not a sound TFLite file [^\n]*$"):
        checked_model(content[:length], "a.tflite")


def test_every_altered_byte_of_the_model_is_noticed():
    content = tflite_file(card())
    end = len(checked_model(content, "file"))
    for position in range(0, end, 7):
        altered = bytearray(content)
        altered[position] ^= 0x40
        with pytest.raises(EdgevitError, match="sound"):
            checked_model(bytes(altered), "file")


def test_damage_in_a_file_of_another_tool_is_an_error_or_harmless_but_never_another_exception():
    """Without edgevit's seal only the structure can be checked."""
    content = checked_model(tflite_file(card()), "file").replace(b"TFLITE_METADATA", b"other.metadata.")
    assert checked_model(content, "file") == content
    refused = 0
    for position in range(len(content)):
        altered = bytearray(content)
        altered[position] ^= 0xFF
        try:
            checked_model(bytes(altered), "file")
        except EdgevitError:
            refused += 1
    assert refused > 100


def test_an_archive_without_a_model_is_refused():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("readme", "no model here")
    with pytest.raises(EdgevitError, match="archive without a model"):
        checked_model(stream.getvalue(), "a.tflite")


def test_metadata_of_another_tool_that_is_no_flatbuffer_is_ignored():
    from edgevit.export.tflite.model import add_buffer, parse, serialise

    model = parse(checked_model(tflite_file(card()), "file"))
    model.metadata[0].buffer = add_buffer(model, np.zeros(9, dtype=np.uint8))
    content = append_files(serialise(model), card())
    assert metadata_of(content) is None


def test_a_table_outside_the_data_is_an_error():
    with pytest.raises(FlatError, match="points outside"):
        Table.root(b"\xff\xff\xff\x7fTFL3", b"TFL3")
