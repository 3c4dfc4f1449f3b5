"""What speaks against a recording although it can be read: cut off, far too loud, channels that cancel.

Such files give wrong text, so each is named in a warning that says what to do.
"""

import os
import re
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from trtasr.audio.source import Stream
from trtasr.values import FloatArray

MISSING = 0.05  # seconds that a header may differ from what is there: a syllable is longer
UNKNOWN_SIZE = 0x7FFF0000  # bytes: from here on a size stands for "not known", as streams write 0x7FFFFFFF, 0xFFFFFFFF
LOUDEST = 4.0  # floating-point audio may exceed 1.0 a little; 32768 is 16-bit audio that was not scaled
CANCELLED = 1e-4  # energy of the mix over that of the loudest channel: 40 dB
LARGEST_PAGE = 65_307  # bytes of an Ogg page
LAST_PAGE = 4  # flag of the page that ends an Ogg stream
CUT = re.compile(r"^\s*(?:data|SSND|Data [Ss]ize)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
WHOLE_CUT = re.compile(r"^\s*(?:riff|Riff size)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)  # W64 and RF64
DATA = re.compile(r"^\s*(?:data|SSND|Data Size)\s*:\s*(\d+)", re.MULTILINE)
LENGTH = re.compile(r"^Length : (\d+)", re.MULTILINE)
BEYOND = re.compile(r"Unknown chunk marker.* at position (\d+)")
AU_START = re.compile(r"Data Offset\s*:\s*(\d+)")


@dataclass
class Level:
    """How loud a recording is, over all its blocks.

    Attributes:
        peak: largest magnitude of what is used.
        mixed: energy of the mean of the channels; channels: energy of each.
    """

    peak: float = 0.0
    mixed: float = 0.0
    channels: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))

    def add(self, block: FloatArray, mono: FloatArray) -> None:
        """Count a block [frames, channels] and what is used of it [frames]."""
        self.peak = max(self.peak, float(np.abs(mono).max(initial=0.0)))
        self.mixed += float(np.square(mono, dtype=np.float64).sum())
        self.channels = self.channels + np.square(block, dtype=np.float64).sum(axis=0)

    def doubts(self, mixes: bool) -> list[str]:
        """Sentences on what is used; ``mixes``: it is the mean of all channels."""
        found = []
        if self.peak > LOUDEST:
            found.append(
                f"samples reach {self.peak:.6g}, full scale is 1: the text may be wrong; divide them by 32768 "
                "if they were 16-bit integers"
            )
        if mixes and len(self.channels) > 1 and self.mixed < CANCELLED * self.channels.max():
            found.append(
                "the channels cancel each other when mixed (opposite phase): the text may be wrong; read one "
                "of them alone, `trtasr transcribe --channel 0`"
            )
        return found


def length_doubts(stream: Stream, frames: int) -> list[str]:
    """Sentences on a whole file whose header and content disagree about its length.

    Args:
        stream: read to its end.
        frames: found in it.
    """
    found, missing = frames / stream.samplerate, promised_seconds(stream, frames)
    if missing is not None and missing - found > MISSING:
        return [f"{found:.2f} s found, but its header promises {missing:.2f} s: the recording is cut off"]
    if (surplus := surplus_seconds(stream, frames)) > MISSING:
        return [
            f"{found:.2f} s read as its header says, but the file holds about {found + surplus:.2f} s: its header "
            "is wrong, and the rest is not heard; repair it (for instance `sox --ignore-length`)"
        ]
    if stream.format == "OGG" and not ends(stream):
        return [f"{found:.2f} s found, but the end of the Ogg stream is missing: the recording is cut off"]
    return []


def promised_seconds(stream: Stream, frames: int) -> float | None:
    """Seconds that the header promises; None where it does not know.

    libsndfile trusts the file's length more than the sizes in the header, and notes both in its log; where it notes
    none, as of MP3 and FLAC, the frames that it counts are those of the header.
    """
    for promised, there in (CUT.findall(stream.extra_info) or WHOLE_CUT.findall(stream.extra_info))[:1]:
        if int(there) < int(promised) < UNKNOWN_SIZE and int(there) > 0:
            return frames / float(stream.samplerate) * int(promised) / int(there)
    return stream.known_seconds


def surplus_seconds(stream: Stream, frames: int) -> float:
    """Seconds of audio, about, that follow what the header of a WAV, AIFF or AU file promises; 0 where none do."""
    log = stream.extra_info
    data, length = DATA.search(log), LENGTH.search(log)
    if not data or not length or not int(data[1]) or not frames:
        return 0.0
    start, beyond = AU_START.search(log), BEYOND.search(log)
    end = int(start[1]) + int(data[1]) if start else int(beyond[1]) if beyond else int(length[1])
    return max(0, int(length[1]) - end) / int(data[1]) * frames / float(stream.samplerate)


def ends(stream: Stream) -> bool:
    """Whether the last page of an Ogg file is whole and ends its stream."""
    size = os.fstat(stream.name).st_size
    tail = os.pread(stream.name, 2 * LARGEST_PAGE, max(0, size - 2 * LARGEST_PAGE))
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26]:  # a header, then the sizes of so many segments
        return False
    return bool(page[5] & LAST_PAGE) and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])
