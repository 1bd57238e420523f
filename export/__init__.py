"""Exporters: a Program written for a device's runtime, and verified by running what was written."""

from edgevit.export.artefacts import open_artefact
from edgevit.export.coreml import to_coreml
from edgevit.export.evaluate import evaluate
from edgevit.export.exporting import ExportResult, export
from edgevit.export.onnx import to_onnx
from edgevit.export.verify import Verification, verify


def __getattr__(name: str) -> object:
    if name == "to_tflite":
        # Its package needs flatbuffers to be imported.
        from edgevit.export.tflite import to_tflite

        return to_tflite
    raise AttributeError(f"module 'edgevit.export' has no attribute {name!r}")


__all__ = [
    "ExportResult",
    "Verification",
    "evaluate",
    "export",
    "open_artefact",
    "to_coreml",
    "to_onnx",
    "to_tflite",
    "verify",
]
