"""Quantization of Programs."""
