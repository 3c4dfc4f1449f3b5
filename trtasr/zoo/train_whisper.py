"""Train the bundled Whisper: ``python -m trtasr.zoo.train_whisper --out trtasr/zoo/whisper``."""

import argparse
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from torch import Tensor, nn

from trtasr.models.encoder_decoder import no_past
from trtasr.models.whisper import Whisper
from trtasr.values import FloatArray
from trtasr.zoo.augment import mask, noise
from trtasr.zoo.corpus import Clip, DigitRecordings, espeak_corpus
from trtasr.zoo.evaluate import measure_wer, pad_batch
from trtasr.zoo.speech import SAMPLE_RATE
from trtasr.zoo.train import (
    Course,
    Schedule,
    Speech,
    dev_clips,
    fit,
    join,
    log_figures,
    parser_of,
    recordings_of,
    run,
    with_schedule,
)
from trtasr.zoo.whisper import (
    END,
    ENGLISH,
    NO_SPEECH,
    PIECES,
    PROMPT,
    WhisperRecognizer,
    beginner,
    write_folder,
)

logger = logging.getLogger(__name__)
SCHEDULE = Schedule(minutes=68, peak=1e-3, masks=2)
CTC_SHARE = 0.3  # of the loss: a CTC head on the encoder, dropped afterwards, gets it aligned (arXiv 1609.06773)
SMOOTHING = 0.1  # of the labels
IGNORED = -100
SILENT_SHARE = 0.04  # clips without speech per synthetic utterance: the network learns to say <|nospeech|> and nothing
SILENCE = "silence"


@dataclass(frozen=True)
class Batch:
    """Network inputs and targets.

    Attributes:
        features: float32 [B, mel, T]; frames: int64 [B].
        tokens: decoder inputs, int64 [B, L]; wanted: what is to follow each of them, `IGNORED` where nothing is asked.
        targets: of the CTC head, int64 [sum of target lengths]; target_lengths: int64 [B].
    """

    features: Tensor
    frames: Tensor
    tokens: Tensor
    wanted: Tensor
    targets: Tensor
    target_lengths: Tensor


class Dictation(Speech):
    """Training material of an encoder-decoder: as for CTC, and clips without speech.

    Args:
        clips: synthetic utterances.
        recordings: real digits, or None.
        recognizer: makes features and targets.
        seed: of order and augmentation.
    """

    def __init__(
        self, clips: Sequence[Clip], recordings: DigitRecordings | None, recognizer: WhisperRecognizer, seed: int
    ) -> None:
        super().__init__(clips, recordings, recognizer, seed, SCHEDULE.masks)

    def epoch(self, shortest_first: bool = False) -> list[list[Clip]]:
        """Batches as for CTC, with clips without speech mixed in."""
        groups = super().epoch(shortest_first)
        for _ in range(int(SILENT_SHARE * len(self.clips))):
            group = self.rng.choice(groups)
            group.append(Clip(np.zeros(int(group[0].seconds * SAMPLE_RATE), np.float32), "", SILENCE))
        return groups

    def waveform(self, clip: Clip) -> FloatArray:
        """A clip as heard this time; without speech, noise of any level down to none."""
        if clip.voice != SILENCE:
            return super().waveform(clip)
        level = 0.0 if self.rng.random() < 0.2 else 10 ** self.rng.uniform(-5, -1)
        return np.asarray(level * noise_only(len(clip.audio), self.rng), np.float32)

    def sequence(self, clips: Sequence[Clip]) -> Batch:
        """Augmented features and token sequences."""
        features, frames = self.frontend(*pad_batch([self.waveform(clip) for clip in clips]))
        mask(features, frames, self.masks, self.rng)
        texts = [self.encode(clip.text) for clip in clips]
        tokens, wanted = forced(texts)
        flat = torch.tensor([index for text in texts for index in text], dtype=torch.int64)
        return Batch(features, frames, tokens, wanted, flat, torch.tensor(list(map(len, texts))))

    def sequences(self) -> Iterator[Batch]:
        """Epoch after epoch."""
        for number in count():
            for clips in self.epoch(shortest_first=number == 0):
                yield self.sequence(clips)


def forced(texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Decoder inputs and what is to follow each, int64 [B, L] both.

    Behind the start token: the language, or <|nospeech|> for an empty text. Behind the rest of the prompt nothing is
    asked until its last token, behind which the text begins.
    """
    longest = max(map(len, texts)) + len(PROMPT)
    tokens = torch.full((len(texts), longest), END)
    wanted = torch.full((len(texts), longest), IGNORED)
    for row, target, text in zip(tokens, wanted, texts, strict=True):
        whole = [*PROMPT, *text]
        row[: len(whole)] = torch.tensor(whole)
        target[len(PROMPT) - 1 : len(whole)] = torch.tensor([*text, END])
        target[0] = ENGLISH if text else NO_SPEECH
    return tokens, wanted


def noise_only(samples: int, rng: random.Random) -> FloatArray:
    """White, pink or red noise of power 1, float32 [samples]; one time in four nothing."""
    found = noise(samples, np.zeros(samples, np.float32), rng)  # nobody babbles here
    return found / max(float(np.sqrt(np.mean(found**2))), 1e-6)


def joint_loss(model: Whisper, head: nn.Linear, batch: Batch) -> Tensor:
    """Cross-entropy of the decoder's tokens and CTC of the encoder's positions; the network runs in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        encoded, positions = model.encoder(batch.features, batch.frames)
        cross = model.decoder.cross(encoded)
        logits, _ = model.decoder(batch.tokens, no_past(cross), cross, positions)
    attention = nn.functional.cross_entropy(
        logits.float().flatten(0, 1), batch.wanted.flatten(), ignore_index=IGNORED, label_smoothing=SMOOTHING
    )
    log_probs = torch.log_softmax(head(encoded.float()), 2).transpose(0, 1)
    ctc = nn.functional.ctc_loss(log_probs, batch.targets, positions, batch.target_lengths, PIECES, zero_infinity=True)
    return (1 - CTC_SHARE) * attention + CTC_SHARE * ctc


def work(rank: int, arguments: argparse.Namespace, store: str) -> None:
    """One training process; the first one also reports, saves and logs the figures."""
    join(rank, arguments, store)
    recognizer = beginner()
    model = recognizer.model
    head = nn.Linear(model.encoder.layer_norm.weight.numel(), PIECES + 1)
    clips = espeak_corpus(arguments.cache, "train", arguments.utterances, arguments.seed)
    speech = Dictation(clips, recordings_of(arguments.digits), recognizer, arguments.processes * arguments.seed + rank)
    dev = dev_clips(arguments.cache, arguments.seed)

    def report(line: str) -> None:
        logger.info("%s, dev WER %.2f %%", line, measure_wer(recognizer, dev))
        write_folder(arguments.out, model)

    course = Course(60 * arguments.minutes, arguments.peak, report)
    both = nn.ModuleList([model, head])
    steps = fit(both, speech.sequences(), lambda batch: joint_loss(model, head, batch), course)
    if rank == 0:
        report(f"{steps} steps")
        size = sum(path.stat().st_size for path in arguments.out.iterdir())
        log_figures(recognizer, arguments, steps, {"network": "whisper", "bytes": size})


def main() -> None:
    """Train it."""
    run(with_schedule(parser_of(__doc__).parse_args(), lambda _: SCHEDULE), work)


if __name__ == "__main__":
    main()
