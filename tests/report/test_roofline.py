from trtasr.bench.roofline import roofline
from trtasr.report.roofline import roofline_text
from trtasr.results import Traffic

DENSE = Traffic("/dense/Conv", macs=6_500_000_000, inputs=1000, outputs=1000, weights=1000)
DEPTHWISE = Traffic("/dw/Conv", macs=1000, inputs=16_000_000, outputs=16_000_000, weights=1000, depthwise=True)


def test_the_text_names_the_estimate_totals_and_what_bounds_each_layer():
    text = roofline_text(roofline([DENSE, DEPTHWISE], {"/dense/Conv"}, batch=8, seconds=7.0))
    first, *rest = text.splitlines()
    assert first.startswith("ESTIMATE for a Tesla T4")
    assert "7 s of audio, batch 8" in first
    order = [line.split()[0] for line in rest if line.startswith("/")]
    assert order == ["/dw/Conv", "/dense/Conv"]  # slowest first
    rows = {line.split("  ")[0]: line.split() for line in rest if line}
    assert rows["FP16"][1:4] == ["0.400", "50", "%"]
    assert rows["INT8 by the T4's rules"][5:8] == ["0.300", "67", "%"]
    assert rows["/dw/Conv"][1:] == ["FP16", "200.0", "memory"]
    assert rows["/dense/Conv"][1:] == ["INT8", "100.0", "arithmetic"]
    assert "1 of 2 layers are memory" in text
    assert "0.050 of 0.300 ms (17 %)" in text


def test_a_network_without_depthwise_convolutions_says_so():
    assert "no depthwise convolutions" in roofline_text(roofline([DENSE], set(), 1, 2.0))


def test_assumed_tokens_are_named():
    first = roofline_text(roofline([DENSE], set(), batch=2, seconds=7.0, tokens=28)).splitlines()[0]
    assert "7 s of audio, batch 2, 28 tokens" in first
    assert "token" not in roofline_text(roofline([DENSE], set(), 1, 2.0)).splitlines()[0]
