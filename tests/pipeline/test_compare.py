"""FP32 against an engine, of one part and of two: who is judged on what, and what is kept."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_graphs
import torch
from onnx import numpy_helper
from polygraphy.comparator import RunResults
from polygraphy.tools import main as polygraphy_main
from whisper_pair import exported, tiny_features, tiny_whisper

from trtasr.audio.features import FrontendConfig
from trtasr.bench.agreement import compare_tensor
from trtasr.engine.sessions import ort_observer
from trtasr.errors import QualityError, UsageError
from trtasr.network.families import network_of
from trtasr.network.network import Described, Files, Network, feeds
from trtasr.pipeline.compare import compare, layer_sqnr, shared_tensors
from trtasr.text.tokens import CharTokenizer
from trtasr.values import Example

LABELS = ("fp32", "int8-cpu")


@dataclass(frozen=True)
class Sides:
    """Two engines of a network.

    Attributes:
        fp32, other: files.
        utterances: what they are compared on; positions: of the last part's output, over all of them.
    """

    network: Network
    fp32: Files
    other: Files
    utterances: list[Example]
    positions: int

    def compare(self, other=None, utterances=None, kind="audio", folder=None):
        engines = dict(zip(LABELS, (self.fp32, other or self.other), strict=True))
        given = self.utterances if utterances is None else utterances
        return compare(self.network, engines, given, folder or self.fp32[0].parent, kind)


def changed(module):
    """The same network with one weight of each half larger."""
    with torch.no_grad():
        module.encoder.layers[1].fc2.weight.mul_(1.5)
        module.decoder.layers[1].fc2.weight.mul_(1.5)
    return module


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A bundle: FP32, another network, and either half of it beside the other FP32 half."""
    root = tmp_path_factory.mktemp("pair")
    exact = exported(root)
    (root / "other").mkdir()
    other = exported(root / "other", changed(tiny_whisper()))
    for index, name in enumerate(("encoder", "decoder")):
        (root / name).mkdir()
        for half, files in enumerate(zip(exact.files, other.files, strict=True)):
            source = files[half == index]
            (root / name / source.name).write_bytes(source.read_bytes())
    features = tiny_features(batches=1)
    count = sum(map(len, features.tokens))
    return Sides(exact.network, exact.files, other.files, features.examples(), count)


@pytest.fixture(scope="module")
def ctc(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ctc")
    described = Described("jasper", FrontendConfig(features=tiny_graphs.MELS), CharTokenizer(tuple("abcdefg")))
    files = (tiny_graphs.fp32(folder / "model.fp32.onnx"),), (tiny_graphs.qdq(folder / "model.qdq.onnx"),)
    utterances = [Example(*feed) for feed in tiny_graphs.feeds([60, 31])]
    return Sides(network_of(described), *files, utterances, 91)


@pytest.fixture(params=["ctc", "pair"])
def sides(request):
    return request.getfixturevalue(request.param)


def test_the_same_graphs_agree_wholly(sides, capfd):
    found = sides.compare(sides.fp32, kind="synthetic")
    assert [(item.tensor, item.sqnr_db, item.max_abs) for item in found.tensors] == [
        (part.judged, np.inf, 0.0) for part in sides.network.parts
    ]
    assert (found.token_agreement, found.frames) == (1.0, sides.positions)
    assert (found.reference, found.candidate, found.features, found.unit) == (
        *LABELS,
        "synthetic",
        sides.network.unit,
    )
    assert capfd.readouterr().out == ""


def test_other_graphs_are_further_away(sides):
    found = sides.compare()
    assert all(3 < item.sqnr_db < 80 and item.cosine < 1 and item.max_abs > 0 for item in found.tensors)
    assert 0.2 < found.token_agreement <= 1


def test_polygraphy_loads_what_is_kept(sides):
    found = sides.compare()
    folder, names = sides.fp32[0].parent, ["comparison.json", "comparison_decoder.json"]
    assert found.results_file == names[0]
    for part, name in zip(sides.network.parts, names, strict=False):
        kept = RunResults.load(str(folder / name))
        assert tuple(kept.keys()) == LABELS
        assert len(kept[LABELS[1]]) == len(sides.utterances)
        assert all(part.judged in item for item in kept[LABELS[1]])
        assert len(json.loads((folder / name.replace(".json", "_inputs.json")).read_text())) == len(sides.utterances)
        assert (folder / name).stat().st_size < 1_000_000


def replayed(command):
    """Exit codes of the printed commands, by Polygraphy's own command line, in this process: starting it takes long."""
    runs = [shlex.split(part) for part in command.split(" && ")]
    assert {run[0] for run in runs} == {"polygraphy"}
    return [polygraphy_main(run[1:]) for run in runs]


def test_the_printed_commands_run_inside_the_bundle_and_mean_something(sides, tmp_path, monkeypatch):
    monkeypatch.chdir(sides.fp32[0].parent)
    same = sides.compare(sides.fp32).command
    assert str(sides.fp32[0].parent) not in same
    assert replayed(same) == [0, 0] * len(sides.network.parts)
    bad = [spoiled(file, tmp_path / file.name, 1.5) for file in sides.fp32]
    command = sides.compare(bad).command
    assert all(item.sqnr_db < 20 for item in sides.compare(bad).tensors)
    assert replayed(command) == [0, 1] * len(sides.network.parts)


BEHIND = {"model": "head_weight", "encoder": "encoder.layer_norm.weight", "decoder": "decoder.layer_norm.weight"}


def spoiled(source: Path, target: Path, factor: float) -> Path:
    """The graph with the last weights before its judged output multiplied."""
    model = onnx.load(source)
    weight = next(item for item in model.graph.initializer if item.name == BEHIND[source.name.partition(".")[0]])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), weight.name))
    onnx.save(model, target)
    return target


@pytest.mark.parametrize("index", [0, -1])
def test_broken_numbers_are_an_error_that_names_the_side(sides, tmp_path, index):
    files = list(sides.fp32)
    files[index] = spoiled(files[index], tmp_path / files[index].name, np.nan)
    with pytest.raises(QualityError, match=f"{sides.network.parts[index].judged} of int8-cpu holds NaN"):
        sides.compare(files, folder=tmp_path)


def test_another_output_length_is_an_error(ctc, tmp_path):
    model = onnx.load(ctc.fp32[0])
    model.graph.node[-1].op_type = "Neg"
    onnx.save(model, tmp_path / "short.onnx")
    with pytest.raises(QualityError, match="utterance 0: int8-cpu gives another output length"):
        ctc.compare([tmp_path / "short.onnx"], folder=tmp_path)


def test_silence_alone_is_nothing_to_compare(sides, tmp_path):
    with pytest.raises(UsageError, match="nothing to compare"):
        sides.compare(utterances=[], folder=tmp_path)


def test_what_does_not_fit_the_files_is_left_out(sides, monkeypatch, tmp_path):
    first = sides.utterances[0]
    monkeypatch.setattr("trtasr.pipeline.compare.MOST_FEATURES", first.features.nbytes + 10)
    found = sides.compare(folder=tmp_path)
    assert found.frames == (first.lengths[0] if first.tokens is None else len(first.tokens))


def test_what_an_encoder_gives_is_written_too_and_limited(pair, monkeypatch, tmp_path):
    monkeypatch.setattr("trtasr.pipeline.compare.MOST_OUTPUTS", 1)
    assert pair.compare(folder=tmp_path).frames == len(pair.utterances[0].tokens)


def half(pair, name):
    """The network in which one half alone is another."""
    return [file.parent / name / file.name for file in pair.fp32]


@torch.no_grad()
def by_torch(module, utterances):
    """What the module gives: encoded positions and logits, one utterance behind the other."""
    encoded, logits = [], []
    for item in utterances:
        given = torch.from_numpy(item.features), torch.from_numpy(item.lengths)
        encoded.append(module.encoder(*given)[0][0].double().numpy())
        logits.append(module(*given, torch.from_numpy(item.tokens)[None])[0].double().numpy())
    return np.concatenate(encoded), np.concatenate(logits)


def test_the_encoder_is_judged_by_itself_and_its_error_reaches_the_tokens(pair):
    """The decoder is the same, so its logits behind the FP32 encoder are; behind its own encoder tokens differ."""
    found = pair.compare(half(pair, "encoder"))
    encoded, logits = found.tensors
    module = tiny_whisper()
    exact = by_torch(module, pair.utterances)
    module.encoder = changed(tiny_whisper()).encoder
    other = by_torch(module, pair.utterances)
    assert encoded.sqnr_db == pytest.approx(compare_tensor("", exact[0], other[0]).sqnr_db, abs=0.01)
    assert encoded.sqnr_db < 30
    assert logits.sqnr_db == np.inf
    assert found.token_agreement == np.mean(exact[1].argmax(1) == other[1].argmax(1)) < 1


def test_the_decoder_is_judged_on_the_encoder_of_full_precision(pair):
    alone, both = pair.compare(half(pair, "decoder")), pair.compare()
    assert alone.tensors[0].sqnr_db == np.inf
    assert alone.tensors[1] == both.tensors[1]
    module = tiny_whisper()
    exact = by_torch(module, pair.utterances)[1]
    module.decoder = changed(tiny_whisper()).decoder
    wanted = compare_tensor("logits", exact, by_torch(module, pair.utterances)[1])
    assert alone.tensors[1].sqnr_db == pytest.approx(wanted.sqnr_db, abs=0.01)
    assert alone.tensors[1].cosine == pytest.approx(wanted.cosine, abs=1e-5)
    assert alone.token_agreement != both.token_agreement


def test_layer_sqnr_covers_the_shared_tensors(ctc):
    graphs = ctc.fp32[0], ctc.other[0]
    names = shared_tensors(graphs, ["spread", "active", "quantized", "nowhere"])
    inputs = feeds(ctc.network, ctc.fp32, ctc.utterances, 0)
    observers = tuple(ort_observer(graph, names) for graph in graphs)
    result = layer_sqnr(observers, names, ((item, item) for item in inputs))
    assert list(result) == ["spread", "active"]
    assert result["spread"] == np.inf
    assert 20 < result["active"] < 80
