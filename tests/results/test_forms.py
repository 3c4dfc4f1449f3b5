"""What a builder makes of two forms of a graph, counted, and which is less."""

from dataclasses import replace

import pytest

from trtasr.results import Counts, LayerRow, counts_of, is_less

ROWS = (
    LayerRow(
        "w + /a/Conv",
        "CaskConvolution",
        ("Int8", "Int8"),
        ("Int8",),
        ("/a/Conv", "/a/Relu", "x/QuantizeLinear"),
        int8=True,
    ),
    LayerRow("w + /b/Conv", "CaskConvolution", ("Int8", "Int8"), ("Half",), ("/b/Conv",), int8=True),
    LayerRow("w + /c/Conv", "CaskConvolution", ("Half", "Half"), ("Half",), ("/c/Conv",)),
    LayerRow("p", "PointWiseV2", ("Half",), ("Half",), ("/m/Mul", "x/DequantizeLinear")),
    LayerRow("q", "Reformat", ("Half",), ("Int8",), ("y/QuantizeLinear",)),
    LayerRow("d", "kgen", ("Int8",), ("Half",), ("y/QuantizeLinear", "y/DequantizeLinear")),
    LayerRow("z", "Quantize", ("Half",), ("Int8",), ()),
    LayerRow("Reformatting CopyNode for Input Tensor 0 to /c/Conv", "NoOp", ("Half",), ("Half",), ()),
    LayerRow("r", "Reformat", ("Half",), ("Half",), ()),
    LayerRow("s", "Shuffle", ("Half",), ("Half",), ("/t/Transpose",)),
)


def test_layers_are_counted_by_what_they_do():
    assert counts_of(ROWS) == Counts(int8=2, written=1, kernels=10, reformats=2, shuffles=1, pairs=3)
    assert counts_of(()) == Counts(0, 0, 0, 0, 0, 0)


BASE = Counts(int8=20, written=3, kernels=80, reformats=4, shuffles=5, pairs=6)


@pytest.mark.parametrize(
    ("change", "less"),
    [
        ({}, False),
        ({"kernels": 79, "reformats": 9, "written": 0}, True),
        ({"kernels": 81, "written": 20, "pairs": 0}, False),
        ({"int8": 19, "kernels": 40}, False),
        ({"int8": 21, "kernels": 90}, True),
        ({"reformats": 3}, True),
        ({"shuffles": 4}, True),
        ({"pairs": 5, "written": 0}, True),
        ({"pairs": 5, "reformats": 6}, False),
        ({"reformats": 5, "shuffles": 4, "written": 4}, True),
        ({"written": 4}, True),
        ({"written": 2}, False),
    ],
)
def test_int8_layers_then_kernels_then_glue_then_what_is_written_decide(change, less):
    assert is_less(replace(BASE, **change), BASE) is less
    assert not (less and is_less(BASE, replace(BASE, **change)))
