import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtasr.engine.cache import format_cache, parse_cache
from trtasr.errors import UsageError
from trtasr.values import TensorScale

HEADER = "TRT-101601-EntropyCalibration2"
names = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]) | st.sampled_from(":/. "), min_size=1)
scales = st.floats(min_value=0, exclude_min=True, width=32, allow_infinity=False, allow_nan=False).map(np.float32)


@given(st.dictionaries(names, scales, max_size=5))
def test_round_trip_is_exact(table: dict[str, np.float32]) -> None:
    header, read = parse_cache(format_cache(table))
    assert header == HEADER
    assert list(read) == list(table)
    assert [value.tobytes() for value in read.values()] == [value.tobytes() for value in table.values()]


def test_known_value() -> None:
    """An amax of 1.0 is a scale of 1/127: 3c010204; small scales keep their leading zeros."""
    table = {"input": TensorScale(1.0, "max").scale, "/conv/Conv:0": np.float32(1e-40)}
    assert format_cache(table) == f"{HEADER}\ninput: 3c010204\n/conv/Conv:0: 000116c2\n"


def test_header_of_another_version() -> None:
    text = format_cache({"x": np.float32(0.5)}, "TRT-100300-MinMaxCalibration")
    assert parse_cache(text)[0] == "TRT-100300-MinMaxCalibration"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "header"),
        ("x: 3c010204\n", "header"),
        (f"{HEADER} \nx: 3c010204\n", "header"),
        (f"{HEADER}\nx 3c010204\n", "line 2"),
        (f"{HEADER}\nx: 3c01020\n", "line 2"),
        (f"{HEADER}\nx: 3c01020g\n", "line 2"),
        (f"{HEADER}\n: 3c010204\n", "line 2"),
        (f"{HEADER}\nx: 3c010204\n\ny: 3c010204\n", "line 3"),
        (f"{HEADER}\nx: 3c010204\nx: 3c010204\n", "twice"),
        (f"{HEADER}\nx: 7f800000\n", "positive and finite"),
        (f"{HEADER}\nx: bc010204\n", "positive and finite"),
        (f"{HEADER}\nx: 00000000\n", "positive and finite"),
    ],
)
def test_refused_files(text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        parse_cache(text)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.inf, np.nan])
def test_refused_scales(scale: float) -> None:
    with pytest.raises(UsageError, match="'x' is not positive"):
        format_cache({"x": np.float32(scale)})


def test_refused_names_and_headers() -> None:
    with pytest.raises(UsageError, match="tensor name"):
        format_cache({"a\nb": np.float32(1)})
    with pytest.raises(UsageError, match="header"):
        format_cache({}, "my cache")
