"""Two graphs as one engine: shapes, excluded layers, files, sizes, layers."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from trtasr.pipeline.calibrate_pair import pair_table
from whisper_pair import CONFIG, CONVOLUTIONS, GENERATION, ROWS, VOCABULARY, exported, tiny_features, tiny_whisper

from trtasr.audio.log_mel import LogMelConfig
from trtasr.audio.waveform import WaveformConfig
from trtasr.checkpoint.checkpoint import Checkpoint
from trtasr.errors import RecipeError
from trtasr.pipeline import lower_pair
from trtasr.pipeline.lower_pair import (
    UNLIMITED,
    cache_shape,
    encoder_profile,
    longest_frames,
    lower_and_build_pair,
    merged,
    pair_baselines,
    pair_plants,
    split_excludes,
)
from trtasr.recipe import EngineShapes, Quantization, Recipe
from trtasr.results import Engine, LayerRow
from trtasr.targets import TARGETS
from trtasr.text.tokens import CharTokenizer

FRONTEND = LogMelConfig(features=ROWS)  # 100 frames a second: 40 positions are 0.8 s
TOKENS = CharTokenizer(tuple(map(str, range(VOCABULARY))))
CHECKPOINT = Checkpoint("whisper", "", CONFIG, {}, TOKENS, FRONTEND, "", Path("tiny"), GENERATION)
RECIPE = Recipe("tiny", "tiny", quantization=Quantization(exclude=(CONVOLUTIONS,)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("pair")).encoder.parent


@pytest.fixture(scope="module")
def table(folder):
    graphs = exported(folder)
    return pair_table(graphs, tiny_features(), RECIPE.quantization, {})


def plants(folder, table, recipe=RECIPE, checkpoint=CHECKPOINT):
    return pair_plants(folder, table, recipe, checkpoint, tiny_whisper(), None)


def features_of(engine, config, most):
    return encoder_profile(engine, config, most).shapes()["features"]


def test_an_encoder_takes_what_it_has_positions_for():
    shapes = EngineShapes(min_seconds=0.2, opt_seconds=5.0, max_seconds=20.0, opt_batch=2)
    assert features_of(shapes, FRONTEND, 1500) == [[1, ROWS, 20], [2, ROWS, 512], [8, ROWS, 1500]]
    assert features_of(shapes, FRONTEND, 80) == [[1, ROWS, 20], [2, ROWS, 80], [8, ROWS, 80]]
    assert features_of(shapes, FRONTEND, 10) == [[1, ROWS, 10], [2, ROWS, 10], [8, ROWS, 10]]


def test_an_encoder_behind_a_front_end_that_pads_takes_one_length():
    assert features_of(EngineShapes(), LogMelConfig(pad_seconds=30), 3000) == [
        [1, 80, 3000],
        [1, 80, 3000],
        [8, 80, 3000],
    ]


def test_an_encoder_of_waveforms_is_not_cut():
    (_, _, low), (_, _, usual), (_, _, high) = features_of(EngineShapes(), WaveformConfig(), UNLIMITED)
    assert (low, usual >= 5 * 16000, high >= 20 * 16000) == (3200, True, True)


def test_whisper_hears_two_frames_per_position_and_moonshine_all():
    assert longest_frames(CHECKPOINT) == 80
    assert longest_frames(replace(CHECKPOINT, family="moonshine", frontend=WaveformConfig())) == UNLIMITED


def test_the_cache_of_a_decoder_is_read_from_its_graph(folder, table):
    assert cache_shape(folder / "decoder.fp32.onnx") == (2, 2, 16)


def test_both_plants_have_the_shapes_of_their_graphs(folder, table):
    found = plants(folder, table)
    assert (found.encoder.fp32, found.decoder.fp32) == (folder / "encoder.fp32.onnx", folder / "decoder.fp32.onnx")
    for plant in (found.encoder, found.decoder):
        inputs = [value.name for value in onnx.load(plant.fp32).graph.input]
        assert sorted(plant.profile.shapes()) == sorted(inputs)
    assert found.encoder.profile.shapes()["features"] == [[1, ROWS, 20], [1, ROWS, 80], [8, ROWS, 80]]
    shapes = found.decoder.profile.shapes()
    assert shapes["cross_key.1"] == [[1, 2, 10, 16], [1, 2, 40, 16], [8, 2, 40, 16]]
    assert shapes["past_key.1"][2] == [8, 2, GENERATION.max_length, 16]
    assert shapes["tokens"] == [[1, 1], [1, 1], [8, len(GENERATION.prompt)]]
    assert shapes["token_bias"] == [[VOCABULARY]] * 3
    detecting = replace(CHECKPOINT, generation=replace(GENERATION, languages=(41, 42)))
    assert plants(folder, table, checkpoint=detecting).decoder.profile.shapes()["tokens"][2] == [8, 4]  # + language
    assert found.encoder.frames_per_second == 100
    assert found.encoder.macs["/encoder/layers.0/fc1/MatMul"] == 32 * 64 * 50
    assert found.decoder.macs["/decoder/layers.0/fc1/MatMul"] == 32 * 64 * 4  # per token, four a second


def test_each_graph_gets_the_patterns_that_match_it(folder, table):
    paths = [folder / "encoder.fp32.onnx", folder / "decoder.fp32.onnx"]
    patterns = ["/encoder/*", "*/encoder_attn/*", "/decoder/MatMul"]
    assert split_excludes(patterns, paths) == [
        ("/encoder/*", "*/encoder_attn/*"),
        ("*/encoder_attn/*", "/decoder/MatMul"),
    ]
    assert split_excludes([], paths) == [(), ()]
    for wrong in ("/decoder/layers.9/*", "/encoder/Conv", "/decoder/layers.0/self_attn/Softmax"):
        with pytest.raises(RecipeError, match="matches no Conv, MatMul or Gemm node of encoder or decoder"):
            split_excludes([*patterns, wrong], paths)
    recipe = replace(RECIPE, quantization=Quantization(exclude=tuple(patterns), ranges="mse"))
    found = plants(folder, table, recipe=recipe)
    assert found.encoder.recipe.quantization == Quantization(exclude=tuple(patterns[:2]), ranges="mse")
    assert found.decoder.recipe.quantization == Quantization(exclude=tuple(patterns[1:]), ranges="mse")


def test_a_pair_is_one_engine_whose_first_file_stands_for_it(folder, table):
    both, engine = lower_and_build_pair(plants(folder, table), TARGETS["cpu"])
    assert (both.graph, engine.path, engine.target) == ("cpu/encoder.int8.onnx", "cpu/encoder.int8.onnx", "cpu")
    files = [folder / "cpu" / f"{half}.int8.onnx" for half in ("encoder", "decoder")]
    sizes = [path.stat().st_size for path in files]
    assert engine.size_bytes == sum(sizes)
    assert engine.details["decoder"] == {"path": "cpu/decoder.int8.onnx", "size_bytes": sizes[1]}
    rules = {item.node: item.rule for item in both.decisions}
    assert rules["/encoder/conv1/Conv"] == "exclude"
    assert rules["/decoder/layers.0/encoder_attn/k_proj/MatMul"] == rules["/decoder/MatMul"] == "int8"
    assert len(both.int8) == (6 + 2) * 2 + 8 * 2 + 1
    named = [row.onnx_nodes[0] for row in engine.layers if row.macs]
    assert "/encoder/layers.1/fc2/MatMul" in named
    assert "/decoder/layers.1/fc2/MatMul" in named


def engines(*targets, size=1):
    row = LayerRow("l", "gemm", (), (), ("n",), 5)
    return tuple(Engine(target, f"t4/{target}.plan", size, (row,), {"gpu": "T4"}) for target in targets)


def test_sizes_and_layers_are_added_and_the_decoders_facts_kept():
    (encoder,), (decoder,) = engines("t4", size=3), engines("t4", size=4)
    found = merged(encoder, replace(decoder, path="t4/decoder.plan", details={"gpu": "T4", "build_seconds": 2}))
    assert (found.target, found.path, found.size_bytes) == ("t4", "t4/t4.plan", 7)
    assert len(found.layers) == 2
    assert found.details == {
        "gpu": "T4",
        "decoder": {"path": "t4/decoder.plan", "size_bytes": 4, "gpu": "T4", "build_seconds": 2},
    }
    assert encoder.details == {"gpu": "T4"}


def test_lint_of_both_graphs_is_kept(folder, table, monkeypatch):
    def built(plant, target):
        (engine,) = engines(target.name)
        lowered = lower_pair.Lowered(
            target.name, f"{plant.stem}.qdq.onnx", "", (), (f"{plant.stem} small",), (f"{plant.stem} large",)
        )
        return lowered, engine

    monkeypatch.setattr(lower_pair, "lower_and_build", built)
    both, _ = lower_and_build_pair(plants(folder, table), TARGETS["t4"])
    assert both.subnormal == ("encoder small", "decoder small")
    assert both.overflowing == ("encoder large", "decoder large")
    assert both.reference == "encoder.qdq.onnx"


def test_baselines_are_those_that_both_graphs_have(folder, table, monkeypatch):
    built = {"encoder": engines("t4-fp16", "t4-fp32", size=10), "decoder": engines("t4-fp32", size=1)}
    monkeypatch.setattr(lower_pair, "build_baselines", lambda plant: built[plant.stem])
    (found,) = pair_baselines(plants(folder, table))
    assert (found.target, found.size_bytes) == ("t4-fp32", 11)
