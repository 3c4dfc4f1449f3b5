"""What the acceptance run says of each variant; that it runs them is tested with a T4 host's fakes."""

import json
import math
from dataclasses import replace

from report_sample import gpu_sample

from trtasr.pipeline.acceptance import Outcome, outcome_json, outcome_table

BUILT = Outcome("explicit", gpu_sample(4), "", {"/a": math.inf, "/b": 17.25}, 30.04)
FAILED = Outcome("implicit", None, "no parser\nrepair: none", {}, 1.0)


def test_a_variant_is_json_with_its_kernels_and_the_error_of_every_layer() -> None:
    found = json.loads(json.dumps(outcome_json(BUILT), allow_nan=False))
    assert (found["name"], found["outcome"], found["error"], found["seconds"]) == ("explicit", "PASSED", "", 30.0)
    assert [row["target"] for row in found["bench"]] == ["fp32", "t4-fp16", "t4-fp32", "t4", "cpu"]
    assert found["engines"]["t4"]["parts"][0]["tensorrt"] == "10.16.1.11"
    assert found["layers"]["t4"][0]["tactic"].startswith("sm75_")
    assert found["layer_sqnr_db"] == {"/a": None, "/b": 17.25}
    assert found["fallback"] == []


def test_a_variant_that_failed_says_why() -> None:
    assert outcome_json(FAILED) == {"name": "implicit", "seconds": 1.0, "error": "no parser\nrepair: none"}
    missed = replace(BUILT, record=replace(gpu_sample(4), problems=("too slow",)))
    heading, *rows = [line.split() for line in outcome_table([BUILT, missed, FAILED]).splitlines()]
    assert heading[:3] == ["variant", "WER", "%"]
    assert rows[0] == ["explicit", "13.27", "+0.08", "2", "of", "4", "1.41", "3.59", "17.2"]
    assert rows[1][-2:] == ["too", "slow"]
    assert rows[2][-3:] == ["failed:", "no", "parser"]
