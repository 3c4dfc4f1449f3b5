from dataclasses import replace

from report_sample import sample

from trtasr.report.fidelity_view import fidelity_lines, fidelity_rows, left_words
from trtasr.report.html import render
from trtasr.results import Fidelity, Judged
from trtasr.values import Decision

TOGETHER = Fidelity("", 1200, 30.3, 0.9895, 0.0345, 0.0039, 254, 15)
KIND = replace(TOGETHER, kind="quiet", positions=250)
HELD = Judged("t4-rtx", "high", 0.0039, 0.015, TOGETHER, (KIND,))
MISSED = replace(HELD, loss=0.2)


def test_a_line_says_how_far_and_how_far_it_may_be():
    (line,) = fidelity_lines([HELD])
    assert "t4-rtx fidelity (high, on probe signals): 0.0039 nats from FP32, limit 0.015" in line
    assert "98.95 % of 1200 positions" in line


def test_a_miss_is_told_in_capitals():
    assert "0.2000 nats from FP32, ABOVE THE LIMIT OF 0.015" in fidelity_lines([MISSED])[0]


def test_layers_that_went_back_are_named_with_their_harm():
    engine, _ = sample().engines
    nodes = [f"/enc/{index}/Conv" for index in range(12)]
    engine = replace(engine, decisions=tuple(Decision(name, "Conv", False, "fidelity") for name in nodes))
    words = left_words(engine, [replace(HELD, harm={name: 20.0 + index for index, name in enumerate(nodes)})])
    assert words.startswith(", 12 left for fidelity: /enc/0/Conv (20.0 dB alone), /enc/1/Conv (21.0 dB alone)")
    assert words.endswith("and 4 more")
    assert left_words(engine, [HELD]) == ""


def test_the_report_shows_every_kind_of_every_target():
    assert [row[1] for row in fidelity_rows([HELD, MISSED])] == [
        "all (held: at most 0.015 nats)",
        "quiet",
        "all (missed: at most 0.015 nats)",
        "quiet",
    ]
    page = render(replace(sample(), fidelity=(HELD,)))
    assert "Fidelity without audio" in page
    assert '<td class="num">0.0039</td>' in page
    assert "Fidelity without audio" not in render(sample())
