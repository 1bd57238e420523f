"""ONNX: files for ONNX Runtime and whatever else reads them, self-described, sealed and checked."""

from edgevit.export.onnx.artefact import OnnxArtefact
from edgevit.export.onnx.convert import OPSET, to_onnx

__all__ = ["OPSET", "OnnxArtefact", "to_onnx"]
