"""What kind of kernel a layer of a TensorRT engine runs, told from its tactic's name.

On a T4 two kinds of INT8 kernels are worlds apart, and builders call both INT8: those of the tensor cores, and those of
the ``dp4a`` instruction, which multiplies on the CUDA cores.
"""

import re
from collections import Counter
from collections.abc import Iterable

from trtasr.results.engine import LayerRow

TENSOR_CORE, DP4A, INT8 = "tensor-core INT8", "dp4a INT8", "INT8 (kernel unknown)"
FP16, FP32, REFORMAT, OTHER = "FP16", "FP32", "reformat", "other"
KERNELS = (TENSOR_CORE, DP4A, INT8, FP16, FP32, REFORMAT, OTHER)
# 8x8x16 and 16x8x32 are the shapes of the tensor cores' INT8 instructions, on Turing and on later GPUs.
TENSOR_CORE_NAME = re.compile(r"i8816|i16832|imma|tensor8x8x16|tensor16x8x32", re.IGNORECASE)
DP4A_NAME = re.compile(r"int8x4|dp4a|i8i8.*simt", re.IGNORECASE)
FP16_NAME = re.compile(r"[hs]884|[hs]1688|[hs]16816|hmma|fp16|f16f16|half", re.IGNORECASE)
NAMES = {TENSOR_CORE: TENSOR_CORE_NAME, DP4A: DP4A_NAME}  # of INT8, asked in this order
COPIES = ("reformat", "reformatting")  # kind and name of a layer that changes type or layout alone
HALF, FLOAT = {"half", "fp16", "float16"}, {"float", "fp32", "float32"}


def kernel_kind(layer: LayerRow) -> str:
    """One of `KERNELS`.

    A name may speak of several types: ``turing_fp16_i8816cudnn_int8`` is an INT8 kernel of the tensor cores that writes
    FP16. Where the name tells nothing, the widest operand does.
    """
    if layer.kind.lower() == COPIES[0] or layer.name.lower().startswith(COPIES[1]):
        return REFORMAT
    for kind, names in NAMES.items():
        if names.search(layer.tactic):
            return kind
    if layer.int8:
        return INT8
    operands = {operand.lower() for operand in layer.operands}
    if operands & FLOAT:
        return FP32
    return FP16 if operands & HALF or FP16_NAME.search(layer.tactic) else OTHER


def kernel_counts(layers: Iterable[LayerRow]) -> dict[str, int]:
    """Kind -> number of layers that run such a kernel; kinds that none runs are left out."""
    found = Counter(kernel_kind(layer) for layer in layers)
    return {kind: found[kind] for kind in KERNELS if found[kind]}
