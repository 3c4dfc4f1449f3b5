"""trtasr: a TensorRT deployment compiler for speech recognition.

Importing the package is cheap: torch, onnxruntime and TensorRT are loaded by the stages that need them. It sets how
they will behave in this process and its children: no telemetry, and no more threads than there are CPUs to run them.
"""

import os

from trtasr.files.cpus import settle

__version__ = "0.1.0"

settle(os.environ)
