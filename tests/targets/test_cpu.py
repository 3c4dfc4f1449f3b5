"""The CPU engine of the bundled models, with static scales and with one scale per position."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from exported import exported, placed
from stored_table import read_table

from trtasr.audio.manifest import read_manifest
from trtasr.audio.prepare import prepare
from trtasr.bench.agreement import output_sqnr
from trtasr.bench.wer import measure_wer
from trtasr.engine.sessions import open_session
from trtasr.network.network import Files, Network
from trtasr.pipeline.export import centered
from trtasr.recipe import EngineShapes
from trtasr.results import Prepared
from trtasr.targets import CPU, targets_of

ROOT = Path(__file__).parents[2]
UTTERANCES = 24


@dataclass(frozen=True)
class Built:
    """FP32, static and dynamic graphs of one bundled model, and speech for it."""

    network: Network
    files: dict[str, Files]
    utterances: list[Prepared]


@pytest.fixture(scope="module", params=["quartznet.nemo", "jasper.nemo", "conformer.nemo", "whisper"])
def built(request, tmp_path_factory):
    folder, name = tmp_path_factory.mktemp(request.param), request.param
    table = read_table(ROOT / "calib" / f"{Path(name).stem}.json")
    graphs = centered(exported(ROOT / "trtasr" / "zoo" / name, folder / "raw"), table, folder)
    files = {kind: placed(graphs, table, CPU.scaled(kind), folder / kind) for kind in ("static", "dynamic")}
    entries = read_manifest(ROOT / "trtasr" / "zoo" / "eval" / "manifest.json")[:UTTERANCES]
    return Built(graphs.network, {"fp32": graphs.files, **files}, list(prepare(entries, graphs.network.frontend)))


def word_errors(built, kind):
    with built.network.open(built.files[kind]) as recognizer:
        return measure_wer(recognizer, built.utterances, "none", 8).wer


def outputs(built, kind):
    """Log-probabilities, or an encoder's states, of every utterance."""
    session, judged = open_session(built.files[kind][0]), built.network.parts[0].judged
    for item in built.utterances:
        feeds = {"features": item.features[None], "lengths": np.array([item.frames], np.int64)}
        yield session.run([judged], feeds)[0].astype(np.float64)


def test_scales_per_position_are_closer_to_fp32_than_static_ones(built):
    static, dynamic = (output_sqnr(outputs(built, "fp32"), outputs(built, kind)) for kind in ("static", "dynamic"))
    assert dynamic > static + 2
    assert word_errors(built, "dynamic") <= word_errors(built, "static")


def test_the_recipe_asks_for_scales_per_position_and_has_static_ones_otherwise():
    (static,) = targets_of(EngineShapes(target="cpu"))
    assert static.activation_scales == "static"
    (dynamic,) = targets_of(EngineShapes(target="cpu", activation_scales="dynamic"))
    assert dynamic.activation_scales == "dynamic"
    assert dynamic.graph_rules is CPU.dynamic_rules
    assert set(dynamic.reasons) >= {"depthwise", "operator"}
