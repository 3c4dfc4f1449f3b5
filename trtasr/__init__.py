"""trtasr: a TensorRT deployment compiler for speech recognition.

Importing the package is cheap: torch, onnxruntime and TensorRT are loaded by the stages that need them.
"""

__version__ = "0.1.0"
