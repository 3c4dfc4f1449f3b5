"""The input shapes that the two engines of an encoder-decoder accept."""

from dataclasses import dataclass

from trtasr.engine.profile import Profile
from trtasr.errors import UsageError

USUAL_PAST = 32  # tokens, on average over the steps of fifteen seconds of speech, at four tokens per second


@dataclass(frozen=True)
class EncoderProfile(Profile):
    """`Profile` of the inputs ``features`` [B, rows, T] and ``lengths`` [B], cut where the encoder's positions end.

    Frames are rounded up for front-ends that pad, which may be more than an encoder with learned or stored positions
    has places for: Whisper's 3000 frames of 30 s would become 3008.

    Attributes:
        most_frames: largest T of the model.
    """

    most_frames: int

    def shapes(self) -> dict[str, list[list[int]]]:
        """Input name -> [min, opt, max] shape."""
        found = super().shapes()
        found["features"] = [[batch, rows, min(frames, self.most_frames)] for batch, rows, frames in found["features"]]
        return found


@dataclass(frozen=True)
class DecoderProfile:
    """The range of input shapes one step of a decoder accepts.

    The first step has the whole prompt and an empty past (P = 0), the others one token each: kernels are tuned for
    those. Empty tensors are tensors to TensorRT (developer guide, "Empty Tensors").

    Attributes:
        batches: utterances per batch: smallest, usual, largest.
        positions: encoder positions per utterance, padding included: likewise.
        layers: of the decoder.
        heads: of keys and values; head_width: of each.
        vocabulary: tokens.
        max_length: tokens of a transcript at most, the prompt included.
        prompt: tokens of the longest prompt.
    """

    batches: tuple[int, int, int]
    positions: tuple[int, int, int]
    layers: int
    heads: int
    head_width: int
    vocabulary: int
    max_length: int
    prompt: int

    def __post_init__(self) -> None:
        for key in ("batches", "positions"):
            smallest, usual, largest = getattr(self, key)
            if not 0 < smallest <= usual <= largest:
                raise UsageError(
                    f"profile {key}={getattr(self, key)} is not 0 < min <= opt <= max", f"put {key} in that order"
                )
        if not 0 < self.prompt <= self.max_length:
            raise UsageError(
                f"a prompt of {self.prompt} tokens in a transcript of at most {self.max_length}",
                "raise max_length in the checkpoint's generation_config.json",
            )

    def shapes(self) -> dict[str, list[list[int]]]:
        """Input name -> [min, opt, max] shape.

        ``tokens`` [B, L], ``positions`` [B], ``token_bias`` [V]; of layer i ``cross_key.i`` and ``cross_value.i``
        [B, heads, T', d_k], ``past_key.i`` and ``past_value.i`` [B, heads, P, d_k].
        """
        new, before = (1, 1, self.prompt), (0, min(USUAL_PAST, self.max_length), self.max_length)
        found = {
            "tokens": [[batch, length] for batch, length in zip(self.batches, new, strict=True)],
            "positions": [[batch] for batch in self.batches],
            "token_bias": [[self.vocabulary]] * 3,
        }
        for layer in range(self.layers):
            for part in ("key", "value"):
                found[f"cross_{part}.{layer}"] = self._cache(self.positions)
                found[f"past_{part}.{layer}"] = self._cache(before)
        return found

    def _cache(self, lengths: tuple[int, int, int]) -> list[list[int]]:
        pairs = zip(self.batches, lengths, strict=True)
        return [[batch, self.heads, length, self.head_width] for batch, length in pairs]
