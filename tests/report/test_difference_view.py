"""INT8 beside FP32, set by set: what the terminal and the page say."""

from dataclasses import replace

import pytest
from report_sample import difference, sample

from trtasr.report.difference_view import difference_lines, difference_rows, format_interval
from trtasr.report.html import render


@pytest.fixture
def several():
    """The CPU engine on two sets."""
    pooled = difference(13.19, 13.28, (-0.21, 0.38))
    parts = difference(20.0, 20.5, (0.1, 0.9), "dev", 939), difference(4.0, 3.0, (-1.5, -0.5), "<an4>", 100)
    record = sample()
    cpu = replace(record.results[2], differences=(pooled, *parts))
    return replace(record, results=(*record.results[:2], cpu))


def test_one_set_is_a_line():
    assert difference_lines(sample().results) == [
        "int8 cpu: delta +0.09 [-0.21, +0.38] (95 % interval), word disagreement 1.35 %, detectable difference 0.42"
    ]


TABLE = """\
set     words   fp32  int8 cpu          delta [95 %]  disagree %  detectable
dev       939  20.00     20.50  +0.50 [+0.10, +0.90]        1.35        0.42
<an4>     100   4.00      3.00  -1.00 [-1.50, -0.50]        1.35        0.42
pooled   1039  13.19     13.28  +0.09 [-0.21, +0.38]        1.35        0.42"""


def test_several_sets_are_a_table_all_together_at_its_end(several):
    assert difference_lines(several.results) == [TABLE]


def test_characters_are_named_where_they_are_judged():
    rows = [replace(row, wer=replace(row.wer, spaced=False)) for row in sample().results]
    assert "character disagreement 1.35 %" in difference_lines(rows)[0]


def test_baselines_and_what_was_not_scored_have_no_line():
    rows = [replace(row, precision="fp16") for row in sample().results]
    assert difference_lines(rows) == difference_rows(rows) == []
    unscored = [replace(row, wer=None, differences=()) for row in sample().results]
    assert difference_lines(unscored) == difference_rows(unscored) == []


def test_an_interval_has_no_negative_zero():
    assert format_interval(difference(1.0, 1.0, (-0.001, 0.004))) == "[+0.00, +0.00]"


def test_the_page_has_every_engine_on_every_set(several):
    page = render(several)
    assert "INT8 against FP32 on the same utterances" in page
    for row in difference_rows(several.results):
        assert f'<td class="num">{row.units}</td>' in page
        assert row.delta in page
    assert "&lt;an4&gt;" in page
    assert "<an4>" not in page
    assert "INT8 against FP32 on the same utterances" not in render(
        replace(several, results=tuple(replace(row, differences=()) for row in several.results))
    )


def test_one_set_alone_is_called_all():
    assert {row.dataset for row in difference_rows(sample().results)} == {"all"}
