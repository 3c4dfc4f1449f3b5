"""A batch of mixed lengths gives the same transcripts as its utterances one by one, for every family and precision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from exported import exported, placed
from stored_table import read_table

from trtasr.audio.manifest import read_manifest
from trtasr.audio.prepare import prepare
from trtasr.bench.wer import measure_wer
from trtasr.network.network import Files, Network
from trtasr.pipeline.export import centered
from trtasr.results import Prepared
from trtasr.targets import CPU, T4_RTX

ROOT = Path(__file__).parents[2]
MODELS = ("quartznet.nemo", "jasper.nemo", "conformer.nemo", "whisper")
UTTERANCES, BATCH = 24, 8
DYNAMIC = "cpu-dynamic"


@dataclass(frozen=True)
class Built:
    """Graphs of one bundled model by precision, and speech for it."""

    network: Network
    files: Mapping[str, Files]
    utterances: Sequence[Prepared]


@pytest.fixture(scope="module", params=MODELS)
def built(request, tmp_path_factory):
    folder, name = tmp_path_factory.mktemp(request.param), request.param
    table = read_table(ROOT / "calib" / f"{Path(name).stem}.json")
    graphs = centered(exported(ROOT / "trtasr" / "zoo" / name, folder / "raw"), table, folder)
    targets = {T4_RTX.name: T4_RTX.scaled("auto"), CPU.name: CPU, DYNAMIC: CPU.scaled("dynamic")}
    files = {kind: placed(graphs, table, target, folder / kind) for kind, target in targets.items()}
    entries = read_manifest(ROOT / "trtasr" / "zoo" / "eval" / "manifest.json")[:UTTERANCES]
    return Built(graphs.network, {"fp32": graphs.files, **files}, prepare(entries, graphs.network.frontend))


def transcripts(built, kind, batch):
    with built.network.open(built.files[kind]) as recognizer:
        result = measure_wer(recognizer, built.utterances, "none", batch)
    return [item.pred_text for item in result.utterances]


@pytest.mark.parametrize("kind", ["fp32", T4_RTX.name, CPU.name, DYNAMIC])
def test_batch_gives_the_same_transcripts_as_one_by_one(built, kind):
    lengths = {item.frames for item in built.utterances}
    assert len(lengths) > UTTERANCES / 2
    alone, together = transcripts(built, kind, 1), transcripts(built, kind, BATCH)
    assert sum(bool(text) for text in alone) > UTTERANCES * 0.9
    assert together == alone
