"""The comparison of FP32 with the first engine of a compile."""

from pathlib import Path

import numpy as np

from trtasr.engine.compare import compare
from trtasr.engine.compare_pair import Dictated, compare_pair
from trtasr.network.network import Exported
from trtasr.pipeline.gpu import INT8
from trtasr.pipeline.job import Job
from trtasr.pipeline.lower import Lowered
from trtasr.results import Comparison, Engine
from trtasr.values import alone

COMPARED_UTTERANCES = 8


def compare_first(job: Job, exported: Exported, folder: Path, lowered: Lowered, engine: Engine) -> Comparison:
    """Polygraphy comparison of FP32 with the first engine: on speech, else on speech-shaped noise."""
    items = [item for item in job.utterances[:COMPARED_UTTERANCES] if item.frames > 0]
    kind = "audio" if items else "synthetic"
    made = job.original.unheard(job.recipe.calibration, job.recipe.engine) if not items else None
    pairs = [made] if made else [(item.features[None], np.array([item.frames], np.int64)) for item in items]
    labels = ("fp32", f"int8-{lowered.target}")
    if len(exported.files) == 1:
        candidate = engine.path if engine.target == INT8 else lowered.reference
        return compare(exported.files[0], folder / candidate, pairs, folder, labels, kind)
    each = [example for features, lengths in pairs for example in alone(features, lengths)]
    with job.network.open(exported.files, 0, False) as recognizer:
        said = [recognizer.example(example.features, example.lengths) for example in each]
    tokens = [example.tokens for example in said if example.tokens is not None]
    spoken = Dictated([(example.features, example.lengths) for example in said], tokens, kind)
    return compare_pair(exported.files[0], folder / lowered.reference, spoken, folder, labels)
