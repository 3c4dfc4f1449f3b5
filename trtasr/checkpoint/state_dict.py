"""A PyTorch state dict read without running, inflating or trusting anything in it."""

import io
import pickle
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from trtasr.checkpoint.nemo_tokenizer import SAVE_AGAIN
from trtasr.checkpoint.pickle_proof import MAX_BYTES, Machine, PickleError, Storage, TensorView
from trtasr.errors import CheckpointError

WEIGHTS = "model_weights.ckpt"
TRUSTED = "use an archive you trust, whose weights are plain tensors of real numbers"
SLACK = 2**20  # bytes beside the weights
HEADERS = 3  # pickles in front of the state dict, before torch 1.6: a magic number, a version, facts of the machine


def read_weights(content: io.BytesIO) -> dict[str, Tensor]:
    """Unpickle a state dict without running anything in it.

    Args:
        content: the file, at its start.

    Raises:
        CheckpointError: damaged, or something other than a mapping of names to plain tensors.
    """
    try:
        proof = prove_zip(content) if bytes(content.getbuffer()[:2]) == b"PK" else prove_legacy(content)
        check_names(proof)
        content.seek(0)
        loaded: dict[str, Tensor] = torch.load(content, map_location="cpu", weights_only=True)
    except CheckpointError:  # first: it is a ValueError too
        raise
    except (PickleError, pickle.UnpicklingError) as error:
        reason = f" ({error})" if isinstance(error, PickleError) else ""
        raise CheckpointError(
            f"{WEIGHTS} contains code or objects, or is damaged{reason}; nothing in it was run", TRUSTED
        ) from error
    except Exception as error:  # torch.load has no common error class: RuntimeError, EOFError, KeyError, IndexError ...
        raise CheckpointError(f"{WEIGHTS} is truncated or damaged ({type(error).__name__})", SAVE_AGAIN) from error
    check_growth(content, sum(tensor.numel() * tensor.element_size() for tensor in loaded.values()))
    return loaded


def prove_zip(content: io.BytesIO) -> Any:
    """What the pickle of a zip archive builds, once every record is known to hold what it refers to.

    The records are listed by the reader that `torch.load` uses, so that both see the same.

    Raises:
        CheckpointError: records that inflate. PickleError: as `Machine.run`, or a storage that is not there whole.
    """
    reader = torch._C.PyTorchFileReader(content)  # the only one
    sizes = {name: reader.get_record_size(name) for name in reader.get_all_records()}
    check_growth(content, sum(sizes.values()))
    if sizes.get("data.pkl", 0) > MAX_BYTES:
        raise PickleError(f"a pickle of {sizes['data.pkl']} bytes")
    machine = Machine()
    built = machine.run(io.BytesIO(reader.get_record("data.pkl")))
    for storage in machine.storages.values():
        if storage.nbytes > sizes.get(f"data/{storage.key}", -1):
            raise PickleError(f"storage {storage.key!r:.20} of {storage.nbytes} bytes is not there")
    return built


def prove_legacy(content: io.BytesIO) -> Any:
    """What the file of torch before 1.6 builds: pickles in a row, the fourth of them the state dict.

    Raises:
        PickleError: as `Machine.run`, or storages that are larger than the file.
    """
    for _ in range(HEADERS):
        Machine().run(content)
    machine = Machine()
    built = machine.run(content)
    Machine().run(content)  # the order of the storages
    check_held(machine.storages.values(), content)
    return built


def check_held(storages: Iterable[Storage], content: io.BytesIO) -> None:
    """Refuse storages that the rest of a file cannot hold."""
    size = sum(storage.nbytes for storage in storages)
    held = content.getbuffer().nbytes - content.tell()
    if size > held:
        raise PickleError(f"storages of {size} bytes in {held}")


def check_names(built: Any) -> None:
    """Refuse anything but names and tensors.

    Raises:
        CheckpointError: naming the first other thing.
    """
    if not isinstance(built, dict) or not built:
        raise CheckpointError(f"{WEIGHTS} holds a {type(built).__name__}, not a state dict", SAVE_AGAIN)
    for name, value in built.items():
        if not isinstance(value, TensorView) or not name.isprintable():
            raise CheckpointError(f"{WEIGHTS}: {name!a:.80} is no plain CPU tensor", TRUSTED)


def check_growth(content: io.BytesIO, size: int) -> None:
    """Refuse ``size`` bytes out of a state dict of half that: zip records that inflate, tensors that repeat memory."""
    held = content.getbuffer().nbytes
    if size > 2 * held + SLACK:
        raise CheckpointError(f"{WEIGHTS} inflates from {held} to {size} bytes", "do not use this archive")
