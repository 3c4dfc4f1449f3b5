"""NumPy's ``.npz`` files from anywhere: bounded, without pickles, every fault an error that names the file."""

import io
import tokenize
import zipfile
import zlib
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from trtasr.errors import said
from trtasr.files.read import Source

Array = npt.NDArray[Any]
MOST_MEMBERS = 2**16
# What a damaged archive, or the header of an array in it, makes zipfile and NumPy raise.
FAULTS = (
    *(ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, MemoryError, RuntimeError),
    *(EOFError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


def read_arrays(source: Source) -> dict[str, Array]:
    """All arrays of an ``.npz`` file by name, as `numpy.savez` writes them; none of them may be compressed.

    Raises:
        TrtasrError: of the source's class: it cannot be read, or is no such file.
    """
    content = io.BytesIO(source.content())
    try:
        with zipfile.ZipFile(content) as archive:
            members = archive.infolist()
            if len(members) > MOST_MEMBERS or any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ValueError("too many arrays, or compressed ones")
            return {member.filename.removesuffix(".npy"): read_array(archive, member) for member in members}
    except FAULTS as error:
        raise source.error(f"{source.path}: not an .npz file, or damaged ({said(error)})", source.repair) from error


def read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    """One array; its header may not promise more bytes than the member has.

    Raises:
        ValueError: it does, or holds objects, records, or text that is none. Others: as `FAULTS`.
    """
    content = io.BytesIO(archive.read(member))
    version = np.lib.format.read_magic(content)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, fortran, dtype = readers[version](content)
    left = len(content.getvalue()) - content.tell()
    if dtype.hasobject or dtype.kind == "V" or dtype.itemsize * int(np.prod(shape, dtype=object)) != left:
        raise ValueError(f"{member.filename:.80} holds something else than its header says")
    found = np.frombuffer(content.getvalue(), dtype, offset=content.tell())
    if dtype.kind == "U" and not is_text(found):
        raise ValueError(f"{member.filename:.80} holds numbers that are no characters")
    return cast(Array, found.reshape(shape, order="F" if fortran else "C").copy())


def is_text(found: npt.NDArray[np.str_]) -> bool:
    """Whether an array holds characters only: of other numbers NumPy makes strings that Python cannot hold."""
    codes = np.frombuffer(found.tobytes(), np.dtype(np.uint32).newbyteorder(found.dtype.byteorder))
    return not bool(((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any())
