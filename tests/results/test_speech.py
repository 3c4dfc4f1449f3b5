"""Where words have no spaces between them, characters are judged."""

import pytest
from report_sample import scored


@pytest.mark.parametrize(("spaced", "measure", "rate"), [(True, "WER", 12.0), (False, "CER", 6.0)])
def test_the_rate_that_is_judged(spaced, measure, rate):
    result = scored(12.0, spaced=spaced)
    assert (result.measure, result.rate) == (measure, rate)
