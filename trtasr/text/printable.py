"""Text for a terminal: what comes from files cannot move its cursor, turn its lines around or flood it."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

# Controls of C0 and C1 (ESC, CSI, BEL, DEL ...) but tab and newline, line separators, bidirectional embeddings,
# overrides and isolates (CVE-2021-42574), lone surrogates (bytes of a file name that are not UTF-8), byte-order marks.
# Joiners and the marks of right-to-left scripts stay: Persian and Indic text needs them.
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufff9-\ufffb]")
LONGEST = 4000  # characters of one message
CUT = " [...] "


def printable(text: str) -> str:
    """The text with everything spelled out that a terminal would act on; tabs and newlines stay."""
    return UNPRINTABLE.sub(lambda match: spelled(match[0]), text)


def one_line(text: str) -> str:
    """As `printable`, with tabs and newlines spelled out too: a field of a table, such as a file name."""
    return printable(text).replace("\t", "\\t").replace("\n", "\\n")


def message(text: str) -> str:
    """As `printable`, and without its middle where it is too long to be read."""
    kept = (LONGEST - len(CUT)) // 2
    return printable(text if len(text) <= LONGEST else f"{text[:kept]}{CUT}{text[-kept:]}")


def json_text(data: Any, ascii_only: bool = False) -> str:
    """JSON for people and machines alike: nothing is lost, nothing acts on a terminal; null for NaN."""
    text = json.dumps(finite(data), indent=2, ensure_ascii=ascii_only, allow_nan=False)
    return UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)  # such characters stand in strings only


def finite(data: Any) -> Any:
    """The data with None for floats that JSON has no spelling for."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: finite(value) for key, value in data.items()}
    return [finite(item) for item in data] if isinstance(data, Sequence) and not isinstance(data, str) else data


def spelled(character: str) -> str:
    """A character as Python's string literals have it: a backslash and its hexadecimal code."""
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
