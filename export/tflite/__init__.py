"""TFLite: files for LiteRT on Android, Linux boards and microprocessors, self-described and checked."""

from edgevit.export.tflite.artefact import TfliteArtefact
from edgevit.export.tflite.convert import to_tflite
from edgevit.export.tflite.counts import count_operators, count_transposes
from edgevit.export.tflite.metadata import TfliteMetadata, read_metadata

__all__ = [
    "TfliteArtefact",
    "TfliteMetadata",
    "count_operators",
    "count_transposes",
    "read_metadata",
    "to_tflite",
]
