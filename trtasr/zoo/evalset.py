"""Make the committed evaluation set: ``python -m trtasr.zoo.evalset --out trtasr/zoo/eval``."""

import argparse
import json
import logging
import random
from pathlib import Path

import numpy as np
import soundfile

from trtasr.zoo.augment import Conditions, disturb
from trtasr.zoo.corpus import Clip, fulfil, orders
from trtasr.zoo.speech import SAMPLE_RATE

logger = logging.getLogger(__name__)
UTTERANCES = 240
CONDITIONS = Conditions(snr=(15.0, 35.0), noisy=0.9, room=0.1, telephone=0.1)


def write_set(out: Path, count: int = UTTERANCES, seed: int = 2024) -> float:
    """Synthesize, disturb and write Ogg Vorbis files and ``manifest.json``.

    Returns:
        seconds of audio. The same seed gives the same samples before compression.
    """
    out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"evaluation {seed}")  # noqa: S311
    wanted = orders("eval", count, seed)
    clean = [Clip(fulfil(order), order.text, str(order.voice)).waveform() for order in wanted]
    lines, seconds = [], 0.0
    for index, (order, audio) in enumerate(zip(wanted, clean, strict=True)):
        babble = np.concatenate([clean[(index + step) % count] for step in (1, 2, 3)])
        heard = disturb(audio, babble, CONDITIONS, rng)
        name = f"{index:03d}.ogg"
        soundfile.write(out / name, heard, SAMPLE_RATE, format="OGG", subtype="VORBIS", compression_level=0.7)
        duration = len(heard) / SAMPLE_RATE
        seconds += duration
        entry = {"audio_filepath": name, "duration": round(duration, 4), "text": order.text, "voice": str(order.voice)}
        lines.append(json.dumps(entry))
    (out / "manifest.json").write_text("\n".join(lines) + "\n")
    return seconds


def main() -> None:
    """Write the set and log its size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the audio and manifest.json")
    parser.add_argument("--utterances", type=int, default=UTTERANCES)
    parser.add_argument("--seed", type=int, default=2024)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    seconds = write_set(arguments.out, arguments.utterances, arguments.seed)
    size = sum(path.stat().st_size for path in arguments.out.iterdir())
    logger.info("%d utterances, %.0f s, %.2f MB", arguments.utterances, seconds, size / 1e6)


if __name__ == "__main__":
    main()
