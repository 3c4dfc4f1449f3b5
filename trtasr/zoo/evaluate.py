"""Word error rate of a bundled checkpoint: ``python -m trtasr.zoo.evaluate [--network jasper] [--digits FOLDER]``."""

import argparse
import json
import logging
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import jiwer
import numpy as np
import soundfile
import torch

from trtasr.values import FloatArray
from trtasr.zoo.corpus import Clip, DigitRecordings
from trtasr.zoo.network import NETWORKS, Transcriber, bundled, load_nemo
from trtasr.zoo.whisper import NAME as WHISPER
from trtasr.zoo.whisper import load_folder

logger = logging.getLogger(__name__)
HERE = Path(__file__).resolve().parent
EVAL_MANIFEST = HERE / "eval" / "manifest.json"
DIGITS_FOLDER = HERE.parents[2] / "shared" / "data" / "digits"


def pad_batch(waveforms: Sequence[FloatArray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Zero-padded float32 [B, samples] and int64 [B]."""
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    audio = torch.zeros(len(waveforms), int(lengths.max()))
    for row, waveform in zip(audio, waveforms, strict=True):
        row[: len(waveform)] = torch.from_numpy(waveform)
    return audio, lengths


def transcribe(recognizer: Transcriber, clips: Sequence[Clip], batch: int = 16) -> list[str]:
    """Greedy transcripts in the order of the clips; the model is put into evaluation mode."""
    recognizer.model.eval()
    order = sorted(range(len(clips)), key=lambda index: len(clips[index].audio))
    texts = [""] * len(clips)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        with torch.inference_mode():
            heard = recognizer.transcribe(*pad_batch([clips[index].waveform() for index in chosen]))
        for index, text in zip(chosen, heard, strict=True):
            texts[index] = text
    return texts


def measure_wer(recognizer: Transcriber, clips: Sequence[Clip]) -> float:
    """Percent."""
    return 100 * float(jiwer.wer([clip.text for clip in clips], transcribe(recognizer, clips)))


def read_manifest(manifest: Path) -> list[Clip]:
    """Clips of a NeMo manifest whose files are 16 kHz mono."""
    return list(manifest_clips(manifest))


def manifest_clips(manifest: Path) -> Iterator[Clip]:
    """Clips of a manifest, read as they are asked for."""
    for line in manifest.read_text().splitlines():
        entry = json.loads(line)
        audio, _ = soundfile.read(manifest.parent / entry["audio_filepath"], dtype="float32")
        yield Clip(np.asarray(audio, np.float32), entry["text"], entry.get("voice", ""))


def digit_strings(folder: Path, count: int = 200, seed: int = 7) -> list[Clip]:
    """Strings of 3 to 6 real digit recordings that training never heard; the same seed gives the same strings."""
    recordings, rng = DigitRecordings(folder, test=True), random.Random(seed)  # noqa: S311
    return [recordings.string(rng) for _ in range(count)]


def main() -> None:
    """Evaluate a checkpoint on the committed set and, where they are, on the held-out digit recordings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=(*NETWORKS, WHISPER), default="quartznet", help="which bundled checkpoint")
    parser.add_argument("--checkpoint", type=Path, help="an archive or folder to evaluate instead")
    parser.add_argument("--manifest", type=Path, default=EVAL_MANIFEST)
    parser.add_argument("--digits", type=Path, default=DIGITS_FOLDER, help="folder of the Free Spoken Digit Dataset")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    path = arguments.checkpoint or bundled(arguments.network)
    recognizer: Transcriber = load_folder(path) if path.is_dir() else load_nemo(path)
    clips = read_manifest(arguments.manifest)
    logger.info("manifest: %d utterances, WER %.2f %%", len(clips), measure_wer(recognizer, clips))
    if not arguments.digits.is_dir():
        logger.info("%s: absent, real digits skipped", arguments.digits)
        return
    strings = digit_strings(arguments.digits)
    logger.info("real digits: %d strings, WER %.2f %%", len(strings), measure_wer(recognizer, strings))


if __name__ == "__main__":
    main()
