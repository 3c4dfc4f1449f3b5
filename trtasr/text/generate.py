"""Greedy decoding of encoder-decoder models: one token after the other, each the most probable one.

Follows Whisper (Radford et al. 2022, arXiv 2212.04356, section 4.5) and ``generate`` of transformers.
"""

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from trtasr.values import FloatArray, IntArray

MAX_LENGTH = 2**16  # tokens of one transcript, the prompt included
SUPPRESSED = -10000.0  # added to logits of tokens that must not follow; fits FP16
NO_SPEECH, UNSURE = 0.6, -1.0  # Whisper's own thresholds of silence: probability, mean log-probability of the tokens
SILENCE = 0.9  # probability above which there is no speech, however sure the tokens
LONGEST_UNIT, MOST_REPEATS = 8, 9  # tokens, and times one after the other, of what is no loop yet


@dataclass(frozen=True)
class Generation:
    """How tokens are generated.

    Attributes:
        start: first token of the decoder.
        prompt: tokens that are given, `start` first. Whisper: start, language, task, no timestamps (English-only
            models: start, no timestamps); Moonshine: start.
        end: tokens that end a transcript.
        suppress: tokens that are never generated.
        begin_suppress: tokens that are not generated first after the prompt.
        max_length: tokens at most, the prompt included.
        no_speech: token whose probability at the start position is that of silence; None: there is none.
        languages: language tokens to choose among when the prompt names none; empty: it does, or there are none.
        tokens_per_second: at most so many tokens per second of audio; 0: no such limit.
        digits: tokens whose text is digits; separators: those that stand between digits. Repeated, they are no loop.
    """

    start: int
    prompt: tuple[int, ...]
    end: tuple[int, ...]
    suppress: tuple[int, ...]
    begin_suppress: tuple[int, ...]
    max_length: int
    no_speech: int | None
    languages: tuple[int, ...]
    tokens_per_second: float
    digits: tuple[int, ...] = ()
    separators: tuple[int, ...] = ()

    def fault(self, size: int) -> str:
        """Why these rules cannot be followed with a vocabulary of so many tokens; empty where they can."""
        named = (self.start, *self.prompt, *self.end, *self.suppress, *self.begin_suppress, *self.languages)
        strange = [token for token in (*named, self.no_speech or 0) if not 0 <= token < size]
        if strange:
            return f"no token {strange[0]} among {size}"
        if not self.prompt or not self.end:
            return "no prompt, or no token that ends a transcript"
        if not len(self.prompt) < self.max_length <= MAX_LENGTH:
            return f"max_length {self.max_length} is not from {len(self.prompt) + 1} to {MAX_LENGTH}"
        return "" if 0 <= self.tokens_per_second < math.inf else f"{self.tokens_per_second} tokens per second"


class Decoding(Protocol):
    """Runs an encoder and a decoder, and keeps what the decoder has seen."""

    def begin(self, features: FloatArray, lengths: IntArray) -> IntArray:
        """Encode a batch and forget the tokens before.

        Args:
            features: [B, rows, T].
            lengths: valid frames [B].

        Returns:
            valid encoder positions [B].
        """

    def step(self, tokens: IntArray, bias: str) -> tuple[IntArray, FloatArray]:
        """Decode more tokens.

        Args:
            tokens: [B, L], behind those of the steps before.
            bias: which of `biases` is added to the logits: ``first``, ``later`` or ``language``.

        Returns:
            the most probable next tokens [B], and their log-probabilities [B].
        """

    def start_probability(self, token: int) -> FloatArray:
        """Probability [B] of a token at the first position of the first step since `begin`, without a bias."""


@dataclass(frozen=True)
class Generated:
    """Transcripts of a batch.

    Attributes:
        tokens: of each utterance, without prompt and end.
        log_probs: mean log-probability of each utterance's tokens, its end counted [B].
        no_speech: probability of silence [B]; 0 where the model has no token for it.
        cut: whether a transcript was stopped by its longest length, and what follows is missing [B]; False for one that
            ends in a loop, in which nothing follows.
        prompts: tokens that were given, a detected language among them [B, P].
    """

    tokens: tuple[tuple[int, ...], ...]
    log_probs: FloatArray
    no_speech: FloatArray
    cut: tuple[bool, ...]
    prompts: IntArray


def biases(generation: Generation, vocabulary_size: int) -> dict[str, FloatArray]:
    """What is added to the logits, by the kind of step.

    Returns:
        ``first`` (behind the prompt), ``later`` and ``language`` (only languages), each float32 [V]: 0, or
        `SUPPRESSED` for what must not follow.
    """
    later = np.zeros(vocabulary_size, np.float32)
    later[list(generation.suppress)] = SUPPRESSED
    first = later.copy()
    first[list(generation.begin_suppress)] = SUPPRESSED
    language = np.full(vocabulary_size, SUPPRESSED, np.float32)
    language[list(generation.languages)] = 0.0
    return {"first": first, "later": later, "language": language}


def greedy(
    decoding: Decoding,
    features: FloatArray,
    lengths: IntArray,
    seconds: FloatArray,
    generation: Generation,
    guard: bool = True,
) -> Generated:
    """Transcribe a batch, each utterance until its end or its longest length; the encoder runs once.

    Args:
        decoding: runs the network.
        features: [B, rows, T].
        lengths: valid frames [B].
        seconds: of audio [B].
        generation: how.
        guard: empty transcripts of silence and cut loops, as `guarded` says; False: exactly as ``generate`` of
            transformers does.
    """
    decoding.begin(features, lengths)
    prompt, given = prompts(decoding, len(lengths), generation)
    room = rooms(seconds, generation, prompt.shape[1])
    chosen, log_probs = [], []
    running = np.ones(len(prompt), bool)
    no_speech = np.zeros(len(prompt), np.float32)
    bias = "first"
    while running.any():
        following, log_prob = decoding.step(given, bias)
        if bias == "first" and generation.no_speech is not None:
            no_speech = decoding.start_probability(generation.no_speech)
        chosen.append(np.where(running, following, generation.end[0]))
        log_probs.append(np.where(running, log_prob, 0.0))
        running = running & ~np.isin(chosen[-1], generation.end) & (len(chosen) < room)
        given, bias = chosen[-1][:, None], "later"
    found = transcripts(np.stack(chosen, 1), np.stack(log_probs, 1), no_speech, room, prompt, generation)
    return guarded(found, generation) if guard else found


def prompts(decoding: Decoding, batch: int, generation: Generation) -> tuple[IntArray, IntArray]:
    """Tokens that are given, behind `Decoding.begin`; a language that is not named is detected, from the start alone.

    Returns:
        all of them [B, P], and those that the decoder has not read yet [B, P] or [B, P - 1]: behind a detected language
        the start token is in its cache.
    """
    prompt = np.tile(np.array(generation.prompt, np.int64), (batch, 1))
    if not generation.languages:
        return prompt, prompt
    language, _ = decoding.step(prompt[:, :1], "language")
    rest = np.concatenate((language[:, None], prompt[:, 1:]), 1)
    return np.concatenate((prompt[:, :1], rest), 1), rest


def rooms(seconds: FloatArray, generation: Generation, prompt: int) -> IntArray:
    """Tokens that may be generated for each utterance [B], at least one.

    A rate limits all tokens, the prompt included, to int(seconds * rate), as Moonshine's model card does.
    """
    total = np.full(len(seconds), generation.max_length)
    if generation.tokens_per_second > 0:
        total = np.minimum(total, (np.asarray(seconds, np.float64) * generation.tokens_per_second).astype(np.int64))
    room: IntArray = np.maximum(total - prompt, 1)
    return room


def transcripts(
    chosen: IntArray,
    log_probs: FloatArray,
    no_speech: FloatArray,
    room: IntArray,
    prompt: IntArray,
    generation: Generation,
) -> Generated:
    """Cut each row at its end.

    Args:
        chosen: tokens [B, L].
        log_probs: of the tokens, 0 behind the end [B, L].
        no_speech: probability of silence [B].
        room: tokens that each utterance has room for [B].
        prompt: tokens that were given [B, P].
        generation: which tokens end a transcript, and which are no loop.
    """
    ended, room = np.isin(chosen, generation.end), np.minimum(room, chosen.shape[1])
    done = np.any(ended, axis=1)
    counts = np.where(done, ended.argmax(1), room)
    spent = np.minimum(counts + 1, room)  # the end is a token too
    tokens = tuple(tuple(row[:count].tolist()) for row, count in zip(chosen, counts, strict=True))
    cut = tuple(not done[index] and not ends_in_loop(row, generation) for index, row in enumerate(tokens))
    return Generated(tokens, (log_probs.sum(1) / spent).astype(np.float32), no_speech, cut, prompt)


def guarded(found: Generated, generation: Generation) -> Generated:
    """Transcripts without what decoders invent in silence and without loops.

    A transcript is empty where the probability of silence is above 0.6 and the mean log-probability below -1, as in
    Whisper's own ``transcribe``, or the probability of silence above 0.9. Loops are cut by `without_loops`.
    """
    silent = ((found.no_speech > NO_SPEECH) & (found.log_probs < UNSURE)) | (found.no_speech > SILENCE)
    rows = zip(found.tokens, silent, strict=True)
    tokens = tuple(() if empty else without_loops(row, generation) for row, empty in rows)
    cut = tuple(short and not empty for short, empty in zip(found.cut, silent, strict=True))
    return replace(found, tokens=tokens, cut=cut)


def without_loops(tokens: tuple[int, ...], generation: Generation) -> tuple[int, ...]:
    """Write what stands 10 times or more one after the other once: units of 1 to 8 tokens, numbers left alone.

    A last repetition that the end of the transcript cuts goes too.
    """
    while (shorter := cut_loops(tokens, generation)) != tokens:  # what is left may be a loop of longer units
        tokens = shorter
    return tokens


def cut_loops(tokens: tuple[int, ...], generation: Generation) -> tuple[int, ...]:
    """One pass of `without_loops`, from the left, shortest units first."""
    kept: list[int] = []
    place = 0
    while place < len(tokens):
        ends = {width: loop_end(tokens, place, width, generation) for width in range(1, LONGEST_UNIT + 1)}
        unit = next((width for width, end in ends.items() if end > place), 0)
        kept += tokens[place : place + max(unit, 1)]
        place = ends[unit] if unit else place + 1
    return tuple(kept)


def loop_end(tokens: tuple[int, ...], place: int, width: int, generation: Generation) -> int:
    """Where a loop of a unit that begins at a place ends; the place itself where there is no loop."""
    unit = tokens[place : place + width]
    end = place + width
    while len(unit) == width and tokens[end : end + width] == unit:
        end += width
    if end - place <= MOST_REPEATS * width or is_number(unit, generation):
        return place
    rest = tokens[end:]
    return len(tokens) if rest == unit[: len(rest)] else end


def ends_in_loop(tokens: tuple[int, ...], generation: Generation) -> bool:
    """Whether the last tokens are a loop, its last repetition whole or not."""
    widths = [width for width in range(1, LONGEST_UNIT + 1) if looped(tokens, width) > MOST_REPEATS * width]
    return any(not is_number(tokens[-width:], generation) for width in widths)


def looped(tokens: tuple[int, ...], width: int) -> int:
    """How many of the last tokens repeat with a period, in whole periods' length or more."""
    place = len(tokens)
    while place > width and tokens[place - 1] == tokens[place - 1 - width]:
        place -= 1
    return len(tokens) - place + width


def is_number(unit: tuple[int, ...], generation: Generation) -> bool:
    """True for tokens of digits, separators between them or not: "0000000000" and "0, 0, 0" may have been said."""
    known = all(token in generation.digits or token in generation.separators for token in unit)
    return known and any(token in generation.digits for token in unit)
