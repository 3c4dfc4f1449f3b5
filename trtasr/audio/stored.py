"""A mel bank and a window that come with a model instead of being computed from its configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from trtasr.errors import BundleError, CheckpointError
from trtasr.files.read import Source
from trtasr.files.write import write_bytes
from trtasr.values import FloatArray

FILE = "frontend.safetensors"  # in a bundle
BANK, WINDOW = "fb", "window"  # names in it, as NeMo's
LARGEST = 1e6  # magnitude of any value; triangles of unit height have 1
AGAIN = "compile the bundle again"


@dataclass(frozen=True, eq=False, repr=False)
class StoredBuffers:
    """What a model was trained with, where that is not what its configuration gives.

    Attributes:
        bank: mel bank, float32 [mel, n_fft // 2 + 1]; None: as computed.
        window: float32 [window in samples]; None: as computed.
    """

    bank: FloatArray | None = None
    window: FloatArray | None = None

    def check(self, bank: tuple[int, int], window: int) -> None:
        """Refuse what cannot stand for the computed ones.

        Args:
            bank: shape of the computed mel bank.
            window: samples of the computed window.

        Raises:
            CheckpointError: another shape, values that are not finite, or a bank with negative values.
        """
        for name, values, shape in ((BANK, self.bank, bank), (WINDOW, self.window, (window,))):
            if values is None:
                continue
            if values.shape != shape:
                raise CheckpointError(
                    f"preprocessor.featurizer.{name}: shape {list(values.shape)}, the configuration "
                    f"gives {list(shape)}",
                    "use weights and configuration of the same model",
                )
            if not np.isfinite(values).all() or np.abs(values).max() > LARGEST:
                raise CheckpointError(
                    f"preprocessor.featurizer.{name}: holds values that are not finite, or above {LARGEST:g}",
                    "use a checkpoint that trained to the end",
                )
        if self.bank is not None and (self.bank < 0).any():
            raise CheckpointError(
                "preprocessor.featurizer.fb: holds negative values, whose logarithm does not exist",
                "use a mel bank of values from 0 on",
            )


def write_stored(folder: Path, stored: StoredBuffers) -> None:
    """Write the buffers that there are to `FILE`."""
    arrays = {BANK: stored.bank, WINDOW: stored.window}
    content = save({name: np.ascontiguousarray(values) for name, values in arrays.items() if values is not None})
    write_bytes(folder / FILE, content)


def read_stored(path: Path) -> StoredBuffers:
    """Read `FILE` of a bundle; shapes are checked where the buffers meet their configuration.

    Raises:
        BundleError: missing, damaged, or other arrays than float32 ``fb`` and ``window``.
    """
    try:
        found: Mapping[str, FloatArray] = load(Source(path, BundleError, AGAIN).content())
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{path}: not a file of front-end buffers ({error})", AGAIN) from error
    if found.keys() - {BANK, WINDOW} or any(values.dtype != np.float32 for values in found.values()):
        raise BundleError(f"{path}: holds other arrays than float32 {BANK} and {WINDOW}", AGAIN)
    return StoredBuffers(found.get(BANK), found.get(WINDOW))
