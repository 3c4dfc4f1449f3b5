"""Reads a calibration cache with nvidia-modelopt and compares it with scales.json, bit for bit.

    python modelopt_cache_check.py calibration.cache scales.json

Runs in an environment of its own (``pip install 'nvidia-modelopt[onnx]'``) and uses nothing of trtasr. Exit status 1
when a tensor is missing, too many or has another scale.
"""

import json
import struct
import sys
from pathlib import Path

from modelopt.onnx.quantization.calib_utils import import_scales_from_calib_cache


def main(cache: str, scales: str) -> int:
    read = import_scales_from_calib_cache(cache)  # tensor name + "_scale" -> float
    table = json.loads(Path(scales).read_text(encoding="utf-8"))["activations"]
    expected = {f"{name}_scale": struct.unpack("!f", struct.pack("!f", row["scale"]))[0] for name, row in table.items()}
    differing = sorted(name for name in read.keys() | expected.keys() if read.get(name) != expected.get(name))
    lines = [f"nvidia-modelopt read {len(read)} scales, {len(expected)} expected, {len(differing)} differ"]
    lines += [f"  {name}: read {read.get(name)}, expected {expected.get(name)}" for name in differing[:10]]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if differing or not read else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
