"""Train a bundled checkpoint: ``python -m trtasr.zoo.train --network jasper --out trtasr/zoo/jasper.nemo``."""

import argparse
import json
import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from trtasr.values import FloatArray
from trtasr.zoo.augment import Conditions, change_speed, disturb, mask
from trtasr.zoo.corpus import Clip, DigitRecordings, espeak_corpus
from trtasr.zoo.evaluate import DIGITS_FOLDER, digit_strings, measure_wer, pad_batch
from trtasr.zoo.network import NETWORKS, Network, Transcriber, load_nemo, untrained, write_nemo

logger = logging.getLogger(__name__)
BATCH_SECONDS = 40.0
WARM_UP = 0.04  # of the training time
REAL_SHARE = 0.15  # real digit strings per synthetic utterance
CACHE = Path.home() / ".cache" / "trtasr"
REPORT_EVERY = 150.0  # seconds
DEV_CONDITIONS = Conditions(snr=(5.0, 25.0))


@dataclass(frozen=True)
class Schedule:
    """How a bundled network was trained.

    Attributes:
        minutes: of training, without synthesis, on two cores.
        peak: highest learning rate.
        masks: bands and spans of features that are zeroed in each utterance.
    """

    minutes: float
    peak: float
    masks: int = 0


SCHEDULES = {
    "quartznet": Schedule(minutes=54, peak=2.5e-3),
    "jasper": Schedule(minutes=55, peak=2.5e-3),
    "conformer": Schedule(minutes=60, peak=1e-3, masks=2),
}


@dataclass(frozen=True)
class Batch:
    """Network inputs and CTC targets.

    Attributes:
        features: float32 [B, mel, T].
        frames: int64 [B].
        targets: int64 [sum of target lengths].
        target_lengths: int64 [B].
    """

    features: Tensor
    frames: Tensor
    targets: Tensor
    target_lengths: Tensor


class Speech:
    """Training material: synthetic clips, real digit strings, and how they are disturbed.

    Args:
        clips: synthetic utterances.
        recordings: real digits, or None.
        recognizer: makes features of waveforms and targets of texts.
        seed: of order and augmentation.
        masks: bands and spans that training does not see, in each utterance.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        recordings: DigitRecordings | None,
        recognizer: Transcriber,
        seed: int,
        masks: int = 0,
    ) -> None:
        self.clips = clips
        self.recordings = recordings
        self.frontend = recognizer.frontend
        self.encode = recognizer.encoder()
        self.rng = random.Random(seed)  # noqa: S311
        self.masks = masks

    def epoch(self, shortest_first: bool = False) -> list[list[Clip]]:
        """All synthetic clips and fresh digit strings, in batches of similar lengths, in random order.

        Args:
            shortest_first: order the batches by length instead, which gets CTC out of its all-blank beginning
                (SortaGrad; Amodei et al. 2016, Deep Speech 2, section 3.3).
        """
        clips = list(self.clips)
        if self.recordings is not None:
            clips += [self.recordings.string(self.rng, (1, 7)) for _ in range(int(REAL_SHARE * len(clips)))]
        clips.sort(key=lambda clip: clip.seconds * self.rng.uniform(0.9, 1.1))
        groups: list[list[Clip]] = [[]]
        for clip in clips:
            if (len(groups[-1]) + 1) * clip.seconds > BATCH_SECONDS:
                groups.append([])
            groups[-1].append(clip)
        if not shortest_first:
            self.rng.shuffle(groups)
        return groups

    def waveform(self, clip: Clip) -> FloatArray:
        """A clip as heard this time."""
        audio = clip.waveform()
        if clip.voice.startswith("real") or self.rng.random() < 0.5:
            audio = change_speed(audio, self.rng.uniform(0.88, 1.12))
        return disturb(audio, self._babble(), Conditions(), self.rng)

    def batch(self, clips: Sequence[Clip]) -> Batch:
        """Augmented features and targets."""
        features, frames = self.frontend(*pad_batch([self.waveform(clip) for clip in clips]))
        targets = [self.encode(clip.text) for clip in clips]
        flat = torch.tensor([index for target in targets for index in target])
        return Batch(features, frames, flat, torch.tensor([len(target) for target in targets]))

    def batches(self) -> Iterator[Batch]:
        """Epoch after epoch, with masks."""
        for number in count():
            for clips in self.epoch(shortest_first=number == 0):
                batch = self.batch(clips)
                mask(batch.features, batch.frames, self.masks, self.rng)
                yield batch

    def _babble(self) -> FloatArray:
        return np.concatenate([self.rng.choice(self.clips).waveform() for _ in range(3)])


def ctc_loss(model: Network, batch: Batch) -> Tensor:
    """CTC loss per token; the encoder in bfloat16, the decoder and the loss in float32."""
    with torch.autocast("cpu", torch.bfloat16):
        encoded, lengths = model.encoder(batch.features, batch.frames)
    log_probs = model.decoder(encoded.float()).transpose(0, 1)
    blank = log_probs.shape[2] - 1
    return nn.functional.ctc_loss(log_probs, batch.targets, lengths, batch.target_lengths, blank, zero_infinity=True)


def learning_rate(progress: float, peak: float) -> float:
    """Linear warm-up to the peak, then a cosine to zero; progress in 0..1."""
    if progress < WARM_UP:
        return peak * (0.05 + 0.95 * progress / WARM_UP)
    return peak * 0.5 * (1 + math.cos(math.pi * min((progress - WARM_UP) / (1 - WARM_UP), 1.0)))


def optimizer_of(parameters: Sequence[Tensor]) -> torch.optim.AdamW:
    """AdamW that decays matrices and convolution kernels only."""
    weights, others = ([p for p in parameters if (p.dim() > 1) == wide] for wide in (True, False))
    groups = [{"params": weights, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def share_gradients(parameters: Sequence[Tensor], progress: float) -> float:
    """Average the gradients over all processes, in place.

    Args:
        parameters: with gradients.
        progress: 0..1 by the first process's clock; 0 from the others.

    Returns:
        the first process's progress, so that all of them take the same learning rate and stop at the same step.
    """
    gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), torch.tensor([progress])])
    dist.all_reduce(flat)
    shares = torch.split(flat[:-1], [gradient.numel() for gradient in gradients])
    for gradient, share in zip(gradients, shares, strict=True):
        gradient.copy_(share.view_as(gradient) / dist.get_world_size())
    return float(flat[-1])


@dataclass(frozen=True)
class Course:
    """How long and how fast a network is trained.

    Attributes:
        seconds: by the clock of the first process.
        peak: learning rate.
        report: called there every `REPORT_EVERY` seconds with a line to log.
    """

    seconds: float
    peak: float
    report: Callable[[str], None]


def fit(model: nn.Module, batches: Iterator[Any], loss_of: Callable[[Any], Tensor], course: Course) -> int:
    """Train for a wall-clock time; every process runs this on its own batches.

    Args:
        model: the same weights in every process.
        batches: without an end.
        loss_of: loss of a batch, by the model's weights.
        course: of the training.

    Returns:
        optimizer steps made.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, first = optimizer_of(trained), dist.get_rank() == 0
    start = reported = time.monotonic()
    losses: list[float] = []
    for step, batch in enumerate(batches, 1):
        model.train()
        loss = loss_of(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        progress = share_gradients(trained, (time.monotonic() - start) / course.seconds if first else 0.0)
        if progress >= 1:
            return step
        nn.utils.clip_grad_norm_(trained, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress, course.peak)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if first and time.monotonic() - reported > REPORT_EVERY:
            reported = time.monotonic()
            course.report(f"{(reported - start) / 60:.1f} min, step {step}: loss {np.mean(losses):.3f}")
            losses = []
    raise AssertionError("batches never end")


def settle_batch_norm(model: Network, speech: Speech, batches: int = 60) -> None:
    """Replace the running batch-norm statistics by plain averages over float32 batches.

    The final statistics then belong to the final weights, which matters to calibration by batch-norm matching. Padding
    frames count in them as they do in training, in NeMo too; batches of similar lengths have few.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    model.train()
    with torch.no_grad():
        for clips in speech.epoch()[:batches]:
            batch = speech.batch(clips)
            model(batch.features, batch.frames)
    model.eval()


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Arguments of every training."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint to write")
    parser.add_argument("--minutes", type=float, help="training time, without synthesis")
    parser.add_argument("--peak", type=float, help="highest learning rate")
    parser.add_argument("--utterances", type=int, default=16_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2, help="each uses one core and its own batches")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the synthesized corpus")
    parser.add_argument("--digits", type=Path, default=DIGITS_FOLDER, help="folder of the Free Spoken Digit Dataset")
    return parser


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--network", choices=NETWORKS, default="quartznet")
    parser.add_argument("--init", type=Path, help="a .nemo archive of this network to go on from")
    return with_schedule(parser.parse_args(), lambda arguments: SCHEDULES[arguments.network])


def with_schedule(
    arguments: argparse.Namespace, schedule_of: Callable[[argparse.Namespace], Schedule]
) -> argparse.Namespace:
    """The network's own time and learning rate where the command line gives none."""
    schedule = schedule_of(arguments)
    arguments.minutes, arguments.peak = arguments.minutes or schedule.minutes, arguments.peak or schedule.peak
    return arguments


def recordings_of(folder: Path) -> DigitRecordings | None:
    """Real digits for training; None, with a warning, where the folder is absent."""
    if folder.is_dir():
        return DigitRecordings(folder, test=False)
    logger.warning("%s: absent, training without real digit recordings", folder)
    return None


def dev_clips(cache: Path, seed: int) -> list[Clip]:
    """Disturbed utterances of the voices kept for watching the training."""
    rng = random.Random(seed)  # noqa: S311
    clean = espeak_corpus(cache, "dev", 200, seed)
    return [
        Clip(disturb(clip.waveform(), clean[index - 1].waveform(), DEV_CONDITIONS, rng), clip.text, clip.voice)
        for index, clip in enumerate(clean)
    ]


def join(rank: int, arguments: argparse.Namespace, store: str) -> None:
    """Begin one training process: one thread, the same random numbers in all of them."""
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.ERROR, format="%(asctime)s %(message)s")
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=arguments.processes)
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)


def work(rank: int, arguments: argparse.Namespace, store: str) -> None:
    """One training process; the first one also reports, settles batch norm, saves and logs the figures."""
    join(rank, arguments, store)
    recognizer = untrained(arguments.network)
    model = recognizer.model
    if arguments.init:
        model.load_state_dict(load_nemo(arguments.init).model.state_dict())
    clips = espeak_corpus(arguments.cache, "train", arguments.utterances, arguments.seed)
    speech = Speech(
        clips,
        recordings_of(arguments.digits),
        recognizer,
        arguments.processes * arguments.seed + rank,
        SCHEDULES[arguments.network].masks,
    )
    dev = dev_clips(arguments.cache, arguments.seed)

    def report(line: str) -> None:
        logger.info("%s, dev WER %.2f %%", line, measure_wer(recognizer, dev))
        write_nemo(arguments.out, recognizer.config, model, recognizer.frontend)

    course = Course(60 * arguments.minutes, arguments.peak, report)
    steps = fit(model, speech.batches(), lambda batch: ctc_loss(model, batch), course)
    if rank > 0:
        return
    settle_batch_norm(model, speech)
    report(f"batch norm settled after {steps} steps")
    log_figures(recognizer, arguments, steps, {"network": arguments.network, "bytes": arguments.out.stat().st_size})


def log_figures(recognizer: Transcriber, arguments: argparse.Namespace, steps: int, figures: dict[str, Any]) -> None:
    """One line of JSON: how the network was trained, and its WER on development voices and on real digits."""
    dev = dev_clips(arguments.cache, arguments.seed)
    figures |= {
        "parameters": sum(p.numel() for p in recognizer.model.parameters()),
        "minutes": arguments.minutes,
        "peak": arguments.peak,
        "processes": arguments.processes,
        "steps": steps,
        "seed": arguments.seed,
        "dev_wer": round(measure_wer(recognizer, dev), 2),
    }
    if arguments.digits.is_dir():
        figures["real_digits_wer"] = round(measure_wer(recognizer, digit_strings(arguments.digits)), 2)
    logger.info("figures %s", json.dumps(figures))


def run(arguments: argparse.Namespace, worker: Callable[[int, argparse.Namespace, str], None]) -> None:
    """Synthesize the corpus, then train in processes of one thread each."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for split, size in (("train", arguments.utterances), ("dev", 200)):
        espeak_corpus(arguments.cache, split, size, arguments.seed, arguments.processes)
    with TemporaryDirectory() as folder:
        spawn(worker, (arguments, f"{folder}/store"), arguments.processes)  # type: ignore[no-untyped-call]


def main() -> None:
    """Train one of the CTC networks."""
    run(parse_arguments(), work)


if __name__ == "__main__":
    main()
