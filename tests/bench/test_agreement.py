import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtasr.bench.agreement import Noise, Scores, compare_tensor, output_sqnr, scores, sqnr_db


@given(st.floats(1e-3, 1e3), st.floats(1e-6, 1))
def test_sqnr_of_a_scaled_copy(size: float, error: float) -> None:
    reference = np.linspace(-size, size, 12).reshape(3, 4)
    result = compare_tensor("x", reference, reference * (1 + error))
    assert result.tensor == "x"
    assert result.sqnr_db == pytest.approx(-20 * np.log10(error), abs=1e-3)
    assert result.cosine == pytest.approx(1)
    assert result.max_abs == pytest.approx(size * error)


@pytest.mark.parametrize(("other", "cosine"), [([0, 0], 1.0), ([0, 2], 0.0)])
def test_silence_is_near_to_nothing_but_silence(other: list[int], cosine: float) -> None:
    assert compare_tensor("x", np.zeros(2), np.array(other, np.float64)).cosine == cosine


def test_sqnr_limits() -> None:
    assert sqnr_db(1.0, 0.0) == np.inf
    assert sqnr_db(0.0, 1.0) == -np.inf


def test_energies_add_up_in_float64() -> None:
    total = Noise()
    total.add(np.array([3e4, 0], np.float16), np.array([0, 4e4], np.float16))
    total.add(np.array([[1.0]], np.float32), np.array([[3]], np.uint8))
    assert total.signal == pytest.approx(9e8 + 1, rel=1e-3)
    assert total.noise == pytest.approx(25e8 + 4, rel=1e-3)


def test_scores_add_up_over_utterances() -> None:
    total = Scores()
    total.add(np.array([[0, -1], [-2, 0]], np.float32), np.array([[0, -1], [0, 0]], np.float32), np.array([0, 0]))
    total.add(np.array([[-1, 0]], np.float32), np.array([[-1, 1]], np.float32))
    assert (total.signal, total.noise, total.same, total.positions) == (1 + 4 + 1, 4 + 1, 2, 3)
    assert (total.sqnr_db, total.token_agreement) == (sqnr_db(6, 5), 2 / 3)


def test_agreement_and_sqnr_of_log_probabilities() -> None:
    reference = [np.log([[0.7, 0.3], [0.4, 0.6]]), np.log([[0.9, 0.1], [0.2, 0.8]])]
    assert scores(reference, [reference[0], reference[1][:, ::-1]]).token_agreement == 0.5
    tenth = [1.1 * values for values in reference]
    assert scores(reference, tenth).token_agreement == 1.0
    assert scores(reference, tenth).sqnr_db == output_sqnr(reference, tenth) == pytest.approx(20.0)
