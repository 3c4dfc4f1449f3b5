import json
import math
from dataclasses import dataclass

from trtasr.results import Control, GpuState, plain


@dataclass(frozen=True)
class Held:
    rows: tuple[Control, ...]
    by_name: dict[str, float]


def test_a_value_is_json_down_to_its_last_number():
    held = Held((Control("noise", None, None, math.inf), Control("audio", 5.0, 1.5, 24.5)), {"x": math.nan, "y": 2})
    assert json.loads(json.dumps(plain(held), allow_nan=False)) == {
        "rows": [
            {"label": "noise", "wer": None, "disagreement": None, "sqnr_db": None},
            {"label": "audio", "wer": 5.0, "disagreement": 1.5, "sqnr_db": 24.5},
        ],
        "by_name": {"x": None, "y": 2},
    }


def test_what_a_card_does_not_report_is_null():
    state = GpuState("Tesla T4", "580", "P0", 1590, 1590, 5000, math.nan, 70, 60, 0)
    assert (plain(state)["power_w"], plain(state)["sm_mhz"]) == (None, 1590)
