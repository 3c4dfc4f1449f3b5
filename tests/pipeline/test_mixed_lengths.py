"""A batch of mixed lengths gives the same transcripts as its utterances one by one, for every family and precision."""

from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
from placed_pair import placed_pair
from trtasr.pipeline.compile_pair import exported_pair

from trtasr.audio.manifest import read_manifest
from trtasr.audio.prepare import prepare
from trtasr.bench.wer import evaluate
from trtasr.checkpoint.read import read_checkpoint
from trtasr.graph.center import center
from trtasr.graph.export import export_onnx, fold_batchnorm
from trtasr.models.load import build_model
from trtasr.network.pair_run import Texts, texts_of
from trtasr.pipeline.evaluate import decoder, running
from trtasr.pipeline.lock import read_table
from trtasr.results import Prepared
from trtasr.targets import CPU, T4_RTX
from trtasr.targets.place import place

ROOT = Path(__file__).parents[2]
MODELS = ("quartznet.nemo", "jasper.nemo", "conformer.nemo", "whisper")
UTTERANCES, BATCH = 24, 8


@dataclass(frozen=True)
class Built:
    """Graphs of one bundled model by precision, and speech for it."""

    graphs: dict[str, Path]
    texts: Texts
    utterances: list[Prepared]


@pytest.fixture(scope="module", params=MODELS)
def built(request, tmp_path_factory):
    folder, name = tmp_path_factory.mktemp(request.param), request.param
    checkpoint = read_checkpoint(ROOT / "trtasr" / "zoo" / name)
    model = build_model(checkpoint.family, checkpoint.config, checkpoint.weights)
    table = read_table(ROOT / "calib" / f"{Path(name).stem}.json")
    make = paths_of_pair if checkpoint.generation else paths_of_ctc
    entries = read_manifest(ROOT / "trtasr" / "zoo" / "eval" / "manifest.json")[:UTTERANCES]
    return Built(make(folder, checkpoint, model, table), texts_of(checkpoint), prepare(entries, checkpoint.frontend))


def paths_of_ctc(folder, checkpoint, model, table):
    export_onnx(fold_batchnorm(model), folder / "exported.onnx", checkpoint.frontend.rows)
    graphs = {"fp32": center(onnx.load(folder / "exported.onnx"), table.offsets)}
    graphs |= {target.name: place(graphs["fp32"], table, target, []).model for target in (T4_RTX, CPU)}
    paths = {kind: folder / f"{kind}.onnx" for kind in graphs}
    for kind, graph in graphs.items():
        onnx.save(graph, paths[kind])
    return paths


def paths_of_pair(folder, checkpoint, model, table):
    graphs = exported_pair(model, checkpoint, folder)
    paths = {target.name: placed_pair(graphs, table, target, folder / target.name) for target in (T4_RTX, CPU)}
    return {"fp32": graphs.encoder, **paths}


def transcripts(built, kind, batch):
    with running(built.graphs[kind], built.texts) as run:
        result = evaluate(run, decoder(built.texts), built.utterances, "none", batch)
    return [item.pred_text for item in result.utterances]


@pytest.mark.parametrize("kind", ["fp32", T4_RTX.name, CPU.name])
def test_batch_gives_the_same_transcripts_as_one_by_one(built, kind):
    lengths = {item.frames for item in built.utterances}
    assert len(lengths) > UTTERANCES / 2
    alone, together = transcripts(built, kind, 1), transcripts(built, kind, BATCH)
    assert sum(bool(text) for text in alone) > UTTERANCES * 0.9
    assert together == alone
