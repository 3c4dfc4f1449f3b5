"""Log-probabilities of real checkpoints, ours against NeMo's own, on the same recordings.

Command, in an environment of its own (never a dependency of this project), from the root of the repository:

    pip install "nemo_toolkit[asr]==3.0.0" "torch==2.13.0" msgspec
    PYTHONPATH=. python tests/golden/compare_nemo.py MANIFEST MODEL.nemo [MODEL.nemo ...]

NeMo restores the whole archive; each utterance goes alone through its preprocessor, encoder and decoder, and through
our front-end and network, on the CPU: in float32, and in float64 from the same float32 features, where rounding hides
nothing. Writes the largest differences per model, and beside them what NeMo's own float32 differs from its float64 by:
attention can magnify rounding so that no order of float32 operations comes closer. Exits with 1 where float32 differs
by more than `TOLERANCE` and by more than that, or float64 by more than `EXACT`. NeMo's float32 log-probabilities of
some frames go to `speech.npz`.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from nemo.collections.asr.models import ASRModel

from trtasr.audio.features import MelFrontend
from trtasr.audio.manifest import read_manifest
from trtasr.audio.read import read_audio
from trtasr.checkpoint.nemo import read_nemo
from trtasr.models.load import build_model

UTTERANCES = 20
KEPT, STEP = 2, 50  # utterances in the file, and frames from one kept to the next
TOLERANCE, EXACT = 1e-3, 1e-9


class Difference(NamedTuple):
    """Largest differences on one utterance: features, log-probabilities in both precisions, NeMo's own rounding."""

    features: float
    single: float
    double: float
    rounding: float


def by_nemo(model: ASRModel, features: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Valid log-probabilities [T', V + 1] of one utterance."""
    encoded, lengths = model.encoder(audio_signal=features, length=frames)
    return model.decoder(encoder_output=encoded)[0, : int(lengths)]


def by_us(model: torch.nn.Module, features: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Valid log-probabilities [T', V + 1] of one utterance."""
    log_probs, lengths = model(features, frames)
    return log_probs[0, : int(lengths)]


def largest(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference of two arrays of equal shape."""
    assert one.shape == other.shape
    return float((one - other).abs().max())


def differences(archive: Path, waves: list[torch.Tensor], kept: dict[str, np.ndarray]) -> list[Difference]:
    """All differences of each utterance; what is to be kept of NeMo's goes to ``kept``."""
    theirs = ASRModel.restore_from(str(archive), map_location="cpu").eval()
    theirs.preprocessor.featurizer.dither = 0.0
    checkpoint = read_nemo(archive)
    ours = build_model(checkpoint.family, checkpoint.config, checkpoint.weights)
    inputs, found = [], []
    for wave in waves:
        audio, lengths = wave[None], torch.tensor([len(wave)])
        features, frames = theirs.preprocessor(input_signal=audio, length=lengths)
        own, valid = MelFrontend(checkpoint.frontend)(audio, lengths)
        assert torch.equal(frames, valid)
        inputs.append((features, own, frames))
        found.append((by_nemo(theirs, features, frames), by_us(ours, own, frames)))
    kept.update({f"{archive.stem}/{index}": nemo[::STEP].numpy() for index, (nemo, _) in enumerate(found[:KEPT])})
    theirs.double(), ours.double()
    rows = []
    for (features, own, frames), (nemo, us) in zip(inputs, found, strict=True):
        exact = by_nemo(theirs, features.double(), frames)
        double = largest(exact, by_us(ours, own.double(), frames))
        rows.append(Difference(largest(features, own), largest(nemo, us), double, largest(nemo, exact)))
    return rows


def main(manifest: Path, archives: list[Path]) -> int:
    """Compare on the first utterances of a manifest."""
    entries = read_manifest(manifest, require_text=False)[:UTTERANCES]
    waves = [torch.from_numpy(read_audio(entry.audio_filepath, 16000, *entry.segment)) for entry in entries]
    failed, kept = False, {}
    with torch.no_grad():
        for archive in archives:
            rows = differences(archive, waves, kept)
            worst = Difference(*map(max, zip(*rows, strict=True)))
            within = sum(row.single <= TOLERANCE for row in rows)
            sys.stdout.write(
                f"{archive.name}: features differ by {worst.features:.1e}, log-probabilities by {worst.single:.1e} in "
                f"float32 ({within} of {len(rows)} utterances within {TOLERANCE:g}), {worst.double:.1e} in float64; "
                f"NeMo's float32 differs from its float64 by {worst.rounding:.1e}\n"
            )
            failed |= worst.single > max(TOLERANCE, worst.rounding) or worst.double > EXACT
    np.savez_compressed(Path(__file__).parent / "speech.npz", **kept)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]))
