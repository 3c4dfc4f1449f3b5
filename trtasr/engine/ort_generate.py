"""Encoder and decoder graphs run by ONNX Runtime: one object that `trtasr.text.generate.greedy` drives."""

from pathlib import Path
from typing import Any

import numpy as np

from trtasr.engine.faults import REPAIR, model_errors
from trtasr.engine.sessions import open_session
from trtasr.errors import BundleError
from trtasr.values import Array, FloatArray, IntArray


class OrtDecoding:
    """Encoder once, then the decoder token by token; the cache is handed from step to step without a copy.

    Args:
        encoder: ONNX file; decoder: likewise.
        biases: name -> float32 [V] added to the last logits (`trtasr.text.generate.biases`).
        threads: threads inside an operator; 0: one per usable CPU.
        timed: as in `open_session`.
    """

    def __init__(
        self, encoder: Path, decoder: Path, biases: dict[str, FloatArray], threads: int = 0, timed: bool = False
    ) -> None:
        self._encoder, self._decoder = (open_session(path, threads, timed=timed) for path in (encoder, decoder))
        self._biases = biases
        self._encoded = [output.name for output in self._encoder.get_outputs()]
        self._decoded = [output.name for output in self._decoder.get_outputs()]
        self._cache = [name for name in self._decoded if name.startswith("present")]
        self._files = f"{encoder}, {decoder.name}"
        self._check_outputs()
        self._memory: dict[str, Any] = {}
        self._past: dict[str, Any] = {}
        self._start: FloatArray | None = None

    def _check_outputs(self) -> None:
        crosses = {name.replace("present", "cross") for name in self._cache}
        missing = {"encoded", "positions", *crosses} - set(self._encoded)
        missing |= {"logits", "next_tokens", "next_log_probs"} - set(self._decoded)
        if missing:
            raise BundleError(f"{self._files}: no output {min(missing):.80}", REPAIR)

    def begin(self, features: FloatArray, lengths: IntArray) -> IntArray:
        """Encode features [B, rows, T] of valid lengths [B]; returns the valid encoder positions [B].

        Raises:
            BundleError: the encoder cannot be run, or gives something else.
        """
        found = self._encoder.run_with_ort_values(self._encoded, ort_values(features=features, lengths=lengths))
        self._memory = memory = dict(zip(self._encoded, found, strict=True))
        del memory["encoded"]
        self._start, self._past = None, {}
        with model_errors(self._files):
            for name in self._cache:
                batch, heads, _, width = memory[name.replace("present", "cross")].shape()
                empty = np.zeros((batch, heads, 0, width), np.float32)
                self._past |= ort_values(**{name.replace("present", "past"): empty})
            positions: IntArray = self._expected(memory["positions"].numpy(), len(lengths))
            return positions

    def step(self, tokens: IntArray, bias: str) -> tuple[IntArray, FloatArray]:
        """Decode tokens [B, L] behind those before; returns the next tokens [B] and their log-probabilities [B].

        Raises:
            BundleError: the decoder cannot be run, or gives something else.
        """
        given = {**ort_values(tokens=tokens, token_bias=self._biases[bias]), **self._memory, **self._past}
        found = dict(zip(self._decoded, self._decoder.run_with_ort_values(self._decoded, given), strict=True))
        self._past = {name.replace("present", "past"): found[name] for name in self._cache}
        with model_errors(self._files):
            if self._start is None:
                self._start = found["logits"].numpy()[:, 0]
            following, log_probs = found["next_tokens"].numpy(), found["next_log_probs"].numpy()
            if not ((following >= 0) & (following < len(self._biases[bias]))).all():
                raise BundleError(f"{self._files}: the decoder gives a token that is not in the vocabulary", REPAIR)
            return self._expected(following, len(tokens)), self._expected(log_probs, len(tokens))

    def _expected(self, values: Any, batch: int) -> Any:
        if values.shape != (batch,):
            raise BundleError(f"{self._files}: gives {values.shape} values for {batch} utterances", REPAIR)
        return values

    def start_probability(self, token: int) -> FloatArray:
        """Softmax probability [B] of a token behind the first token of the prompt."""
        assert self._start is not None, "no step has been made"
        with model_errors(self._files):
            exponents = np.exp(self._start - self._start.max(axis=1, keepdims=True))
            return np.asarray(exponents[:, token] / exponents.sum(axis=1), np.float32)


def ort_values(**arrays: Array) -> dict[str, Any]:
    """Arrays as ONNX Runtime's values, by name."""
    import onnxruntime  # noqa: PLC0415 - half a second

    make = onnxruntime.OrtValue.ortvalue_from_numpy
    return {name: make(np.ascontiguousarray(array)) for name, array in arrays.items()}
