"""Builders, runners and inspectors: the only importers of TensorRT, TensorRT for RTX, pycuda and Polygraphy."""
