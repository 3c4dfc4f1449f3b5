"""IInt8Calibrator for TensorRT 10: serves our scale table as a cache, or feeds our batches.

TensorRT 11 has no calibrators. TensorRT 10 ignores one when the graph holds Q/DQ nodes, so this is for the plain FP32
graph alone (implicit quantization), where the builder keeps FP16 wherever INT8 is not faster.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trtasr.engine.bindings import Network, Trt
from trtasr.engine.cache import parse_cache
from trtasr.engine.device import Arena
from trtasr.engine.implicit import covered, reshapes
from trtasr.errors import BuildError, MissingError, UsageError
from trtasr.values import Array, CalibrationSet, FloatArray, IntArray

Feed = tuple[FloatArray, IntArray]
BASES = {"entropy": "IInt8EntropyCalibrator2", "minmax": "IInt8MinMaxCalibrator"}
HEADERS = {"entropy": "EntropyCalibration2", "minmax": "MinMaxCalibration"}


@dataclass(frozen=True)
class Source:
    """What a calibrator serves.

    Attributes:
        algorithm: ``entropy`` (IInt8EntropyCalibrator2) or ``minmax`` (IInt8MinMaxCalibrator).
        feeds: batches of the optimization profile's OPT shape; not asked for when `cache` is there.
        cache: calibration cache in TensorRT's text format; empty: TensorRT takes its own ranges from `feeds`.
    """

    algorithm: str
    feeds: tuple[Feed, ...] = ()
    cache: str = ""


def cache_header(version: str, algorithm: str) -> str:
    """First line of a cache that this TensorRT reads, ``TRT-101601-EntropyCalibration2`` for 10.16.1."""
    major, minor, patch = (int(part) for part in version.split(".")[:3])
    return f"TRT-{major * 10000 + minor * 100 + patch}-{HEADERS[algorithm]}"


def check_cache(cache: str, version: str, algorithm: str) -> None:
    """Refuse a cache that TensorRT would skip without a word.

    Raises:
        UsageError: no cache, or one of another TensorRT version or calibrator.
    """
    found, _ = parse_cache(cache)
    expected = cache_header(version, algorithm)
    if found != expected:
        raise UsageError(
            f"calibration cache: header {found!r}, but TensorRT {version} reads {expected!r} only and "
            "skips any other in silence",
            "compile the bundle again on this host",
        )


def require_calibrators(trt: Trt, algorithm: str) -> type[Any]:
    """The calibrator class of an algorithm.

    Raises:
        MissingError: TensorRT 11 or newer.
    """
    base: type[Any] | None = getattr(trt, BASES[algorithm], None)
    if base is None:
        raise MissingError(
            f"TensorRT {trt.__version__} has no calibrators: implicit quantization ended with version 10, scales now "
            "travel in the graph as Q/DQ nodes",
            "use --quantization explicit (the default), or TensorRT 10: pip install tensorrt-cu12==10.16.1.11",
        )
    return base


def make_calibrator(trt: Trt, source: Source, cuda: Any) -> Any:  # noqa: C901 - five short callbacks
    """An instance of TensorRT's calibrator class that serves `source`.

    An exception in a callback would be printed and read as "no more data"; here it ends the calibration and comes out
    of `check` after the build.

    Args:
        trt: the module tensorrt.
        source: cache and batches.
        cuda: pycuda's driver with a context pushed; not used when a cache is served.

    Raises:
        MissingError: TensorRT 11 or newer. UsageError: a cache of another version; neither cache nor batches.
    """
    base = require_calibrators(trt, source.algorithm)
    if source.cache:
        check_cache(source.cache, trt.__version__, source.algorithm)
    elif not source.feeds:
        raise UsageError("nothing to calibrate with: no cache and no whole batch", "lower engine.opt_batch")

    class Int8Calibrator(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            base.__init__(self)  # TensorRT reads freed memory without it
            self.error: Exception | None = None
            self.written = b""
            self.delivered = 0
            self.feeds: Iterator[Feed] = iter(source.feeds)
            self.arena = Arena(cuda)
            self.cache = source.cache

        def cover(self, network: Network) -> None:
            self.cache = covered(self.cache, reshapes(network))

        def get_batch_size(self) -> int:
            return len(source.feeds[0][1]) if source.feeds else 1

        def get_batch(self, names: Sequence[str]) -> list[int] | None:
            try:
                feed = next(self.feeds, None)
                if feed is None:
                    return None
                arrays: dict[str, Array] = {"features": feed[0], "lengths": feed[1]}
                pointers = {name: self.arena.reserve(name, arrays[name].shape, arrays[name].dtype) for name in names}
                for name, pointer in pointers.items():
                    cuda.memcpy_htod(pointer, np.ascontiguousarray(arrays[name]))
                self.delivered += 1
                return list(pointers.values())
            except Exception as error:
                self.error = error
                return None

        def read_calibration_cache(self) -> bytes | None:
            return self.cache.encode() or None

        def write_calibration_cache(self, cache: Any) -> None:
            self.written = bytes(cache)

        def check(self, built: bool) -> None:
            self.arena.close()
            check_delivered(source, self.delivered, self.error, built)

    return Int8Calibrator()


def check_delivered(source: Source, delivered: int, error: Exception | None, built: bool) -> None:
    """Refuse a calibration that ended early.

    Args:
        source: cache or batches.
        delivered: batches that TensorRT got.
        error: what a callback raised.
        built: whether there is a plan.

    Raises:
        BuildError: a callback failed, or the plan was built from a part of the batches.
    """
    if error is not None:
        raise BuildError(
            f"calibration stopped after {delivered} batches: {error!r}", "free GPU memory or lower engine.opt_batch"
        ) from error
    if built and not source.cache and delivered < len(source.feeds):
        raise BuildError(
            f"TensorRT took {delivered} of {len(source.feeds)} calibration batches",
            "see TensorRT's log; use --quantization explicit",
        )


def at_opt_shape(calibration: CalibrationSet, batch: int, frames: int) -> tuple[tuple[Feed, ...], int]:
    """Calibration batches in the one shape TensorRT calibrates with, the profile's OPT shape.

    Longer utterances are cut into pieces of `frames`; shorter ones and last pieces are padded with zeros, with their
    valid length kept. A last batch that is not full is dropped.

    Returns:
        batches of features float32 [batch, mel, frames] and lengths int64 [batch]; and the number of dropped pieces.
    """
    pieces, sizes = [], []
    for features, lengths in zip(calibration.batches, calibration.lengths, strict=True):
        for item, length in zip(features, lengths, strict=True):
            for start in range(0, int(length), frames):
                piece = item[:, start : min(start + frames, int(length))]
                pieces.append(np.pad(piece, ((0, 0), (0, frames - piece.shape[1]))))
                sizes.append(piece.shape[1])
    whole = len(pieces) - len(pieces) % batch
    groups = (slice(first, first + batch) for first in range(0, whole, batch))
    feeds = ((np.stack(pieces[group]).astype(np.float32), np.array(sizes[group], np.int64)) for group in groups)
    return tuple(feeds), len(pieces) - whole


def write_source(path: Path, source: Source) -> None:
    """Write a source for the build process: one ``.npz`` file."""
    arrays = {
        f"{kind}_{index}": array
        for index, feed in enumerate(source.feeds)
        for kind, array in zip(("features", "lengths"), feed, strict=True)
    }
    np.savez(path, algorithm=np.array(source.algorithm), cache=np.array(source.cache), **arrays)  # type: ignore[arg-type]


def read_source(path: Path) -> Source:
    """Read what `write_source` wrote."""
    with np.load(path, allow_pickle=False) as data:
        count = sum(key.startswith("features_") for key in data)
        feeds = tuple((data[f"features_{index}"], data[f"lengths_{index}"]) for index in range(count))
        return Source(str(data["algorithm"]), feeds, str(data["cache"]))
