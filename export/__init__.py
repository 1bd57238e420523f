"""Exporters: a Program written for a device's runtime, and verified by running what was written."""

from edgevit.export.artefacts import open_artefact
from edgevit.export.evaluate import evaluate
from edgevit.export.exporting import ExportResult, export
from edgevit.export.onnx import to_onnx
from edgevit.export.verify import Verification, verify

__all__ = ["ExportResult", "Verification", "evaluate", "export", "open_artefact", "to_onnx", "verify"]
