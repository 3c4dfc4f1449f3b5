"""Quantization mathematics on tensors; no file access."""
