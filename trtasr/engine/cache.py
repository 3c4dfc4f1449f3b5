"""TensorRT's calibration cache: the activation scales in the text format that TensorRT, trtexec and others read.

First line ``TRT-<version>-<algorithm>``, then one ``<tensor>: <scale>`` per line, the scale (amax / 127) being the
IEEE-754 float32 as eight hexadecimal digits, most significant byte first.
"""

import re
import struct
from collections.abc import Mapping

import numpy as np

from trtasr.errors import UsageError
from trtasr.values import ScaleTable

HEADER = re.compile(r"TRT-\d+-\w+")
REPAIR = "make the cache anew with `trtasr calibrate`"
HEX = re.compile(r"[0-9a-fA-F]{8}")


def format_cache(scales: Mapping[str, np.float32], version: str = "TRT-101601-EntropyCalibration2") -> str:
    """Writes activation scales as a calibration cache.

    Args:
        scales: tensor name -> scale, positive and finite; keeps its order.
        version: header line; TensorRT skips a cache whose header is not that of its own version and calibrator class.

    Raises:
        UsageError: a scale or a name that the format cannot hold, or an odd header.
    """
    check_header(version)
    lines = [version]
    for name, scale in scales.items():
        if not name or "\n" in name or "\r" in name:
            raise UsageError(f"tensor name {name!r} does not fit a calibration cache", "rename it in the ONNX graph")
        value = checked_scale(np.float32(scale), name)
        lines.append(f"{name}: {struct.pack('>f', value).hex()}")
    return "\n".join(lines) + "\n"


def parse_cache(text: str) -> tuple[str, dict[str, np.float32]]:
    """Reads a calibration cache.

    Returns:
        the header line, and tensor name -> scale in the file's order, each the float32 that was written.

    Raises:
        UsageError: not a cache, or a line that is none of its entries.
    """
    header, *entries = text.removesuffix("\n").split("\n")
    check_header(header)
    scales: dict[str, np.float32] = {}
    for number, line in enumerate(entries, start=2):
        name, colon, digits = line.rpartition(": ")
        if not colon or not name or not HEX.fullmatch(digits):
            problem = f"calibration cache, line {number}: {line[:80]!r} is not '<tensor>: <8 hex digits>'"
            raise UsageError(problem, REPAIR)
        if name in scales:
            raise UsageError(f"calibration cache, line {number}: tensor {name!r} occurs twice", REPAIR)
        scales[name] = checked_scale(np.float32(struct.unpack(">f", bytes.fromhex(digits))[0]), name)
    return header, scales


def check_header(header: str) -> None:
    """Refuse a header that TensorRT does not write.

    Raises:
        UsageError: it is not ``TRT-<version>-<algorithm>``.
    """
    if not HEADER.fullmatch(header):
        raise UsageError(f"calibration cache: header {header[:80]!r} is not 'TRT-<version>-<algorithm>'", REPAIR)


def checked_scale(scale: np.float32, name: str) -> np.float32:
    """A scale as it is.

    Raises:
        UsageError: it is not positive and finite.
    """
    if not (np.isfinite(scale) and scale > 0):
        raise UsageError(f"calibration cache: scale {scale} of tensor {name!r} is not positive and finite", REPAIR)
    return scale


def cache_text(table: ScaleTable) -> str:
    """The activation scales of a table in TensorRT's calibration cache format."""
    return format_cache({name: entry.scale for name, entry in table.activations.items()})
