"""The graph that target t4 halves and builds from, on speech: it hears what the Q/DQ graph of the bundle hears."""

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from exported import exported
from graph.tiny_network import table_of

from trtasr.audio.manifest import read_manifest
from trtasr.audio.prepare import prepare
from trtasr.bench.wer import measure_wer
from trtasr.graph.check import graph_session
from trtasr.graph.conv2d import conv1d_to_conv2d
from trtasr.graph.masks import drop_pointwise_masks, without_masks
from trtasr.network.ctc import CtcRecognizer
from trtasr.network.network import Network
from trtasr.results import Prepared
from trtasr.targets import T4
from trtasr.targets.place import place

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_order_of_sums")]
HEARD = 8  # utterances that the scales are from


@dataclass(frozen=True)
class Speech:
    """QuartzNet15x5, its FP32 graph and its Q/DQ graph, and utterances of LibriSpeech."""

    network: Network
    graphs: dict[str, onnx.ModelProto]
    utterances: list[Prepared]

    def transcripts(self, model, batch):
        session = graph_session(model)

        def run(features, lengths):
            return session.run(["log_probs", "output_lengths"], {"features": features, "lengths": lengths})

        recognizer = CtcRecognizer(run, self.network.described.tokenizer)
        return [item.pred_text for item in measure_wer(recognizer, self.utterances, "basic-en-v1", batch).utterances]


@pytest.fixture(scope="module")
def speech(shared, tmp_path_factory):
    graphs = exported(shared / "data" / "models" / "quartznet15x5.nemo", tmp_path_factory.mktemp("speech"))
    entries = read_manifest(shared / "data" / "librispeech" / "dev.json")
    utterances = list(prepare(entries, graphs.network.frontend))
    fp32 = onnx.load(graphs.files[0])
    table = table_of(fp32, padded(utterances[:HEARD]))
    return Speech(graphs.network, {"fp32": fp32, "qdq": place(fp32, table, T4, ()).model}, utterances)


def padded(utterances):
    """A batch of them."""
    lengths = np.array([item.frames for item in utterances])
    features = np.zeros((len(utterances), len(utterances[0].features), lengths.max()), np.float32)
    for row, item in zip(features, utterances, strict=True):
        row[:, : item.frames] = item.features[:, : item.frames]
    return {"features": features, "lengths": lengths}


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("kind", ["fp32", "qdq"])
def test_transcripts_stay(speech, kind, batch):
    model = speech.graphs[kind]
    expected = speech.transcripts(model, batch)
    assert len(set(expected)) == len(speech.utterances)
    assert speech.transcripts(drop_pointwise_masks(model), batch) == expected
    assert speech.transcripts(conv1d_to_conv2d(drop_pointwise_masks(model)), batch) == expected
    if batch == 1:
        assert speech.transcripts(conv1d_to_conv2d(without_masks(model)), batch) == expected
