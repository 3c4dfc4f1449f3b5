"""One scale table for an encoder and a decoder: what it holds, and that both graphs compute with it."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from stored_table import read_table
from trtasr.pipeline.calibrate_pair import PairGraphs, Voice, pair_ranks, pair_table, teacher_tokens
from whisper_pair import CONVOLUTIONS, END, ENGLISH, FRENCH, GENERATION, alone, exported, tiny_features, tiny_whisper

from trtasr.engine.cache import parse_cache
from trtasr.engine.compare import output_sqnr
from trtasr.engine.compare_pair import decoder_inputs
from trtasr.engine.sessions import open_session, utterances
from trtasr.errors import RecipeError, UsageError
from trtasr.graph.corrected import with_corrections
from trtasr.graph.cpu_qdq import quantize_for_cpu
from trtasr.graph.own_part import own_part
from trtasr.graph.tensors import activation_tensors, weight_tensors
from trtasr.pipeline import calibrate_pair
from trtasr.pipeline import correct as correcting
from trtasr.pipeline.controls import quantized_graph
from trtasr.pipeline.lock import cache_text, write_table
from trtasr.quant.ranges import representable_amax
from trtasr.quant.scales import quantize_weight, table_to_json
from trtasr.recipe import Quantization

PLAIN = Quantization(exclude=(CONVOLUTIONS,))


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def features():
    return tiny_features()


def models(graphs):
    return onnx.load(graphs.encoder), onnx.load(graphs.decoder)


def made(graphs, features, **changes):
    return pair_table(graphs, features, replace(PLAIN, **changes), {"a": 1})


@pytest.fixture(scope="module")
def fade(graphs, features):
    return made(graphs, features, correction="fade", weight_bits=4)


def initializers(model):
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def quantized(graphs, table):
    """Both Q/DQ graphs of a table."""
    return [
        quantized_graph(model, own_part(table, model), pattern)
        for model, pattern in zip(models(graphs), ((CONVOLUTIONS,), ()), strict=True)
    ]


def run(pair, features):
    """Encoder outputs and logits of every utterance, by ONNX Runtime."""
    encoder, decoder = (open_session(model.SerializeToString()) for model in pair)
    names = [output.name for output in encoder.get_outputs()]
    size = decoder.get_inputs()[2].shape[0]
    encoded = [dict(zip(names, encoder.run(names, feed), strict=True)) for feed in utterances(features)]
    logits = [
        decoder.run(["logits"], decoder_inputs(found, tokens, size))[0]
        for found, tokens in zip(encoded, features.tokens, strict=True)
    ]
    return encoded, logits


def noted_sqnr(monkeypatch):
    """What the walks say about their outputs, filled as they go."""
    found = []
    monkeypatch.setattr(correcting, "output_sqnr", lambda *both: found.append(output_sqnr(*both)) or found[-1])
    return found


def test_the_plain_table_has_every_layer_of_both_graphs_and_the_ranges_of_teacher_forcing(graphs, features):
    table = made(graphs, features)
    both = models(graphs)
    assert table.activations.keys() == {name for model in both for name in activation_tensors(model)}
    assert table.weights.keys() == {item.name for model in both for item in weight_tensors(model)}
    assert table.settings == {"a": 1}
    assert not table.corrected
    seen, module = [], tiny_whisper()
    module.decoder.layer_norm.register_forward_hook(lambda layer, inputs, output: seen.append(output.abs().max()))
    with torch.no_grad():
        for feed, tokens in zip(utterances(features), features.tokens, strict=True):
            module(
                torch.from_numpy(feed["features"]), torch.from_numpy(feed["lengths"]), torch.from_numpy(tokens)[None]
            )
    found = table.activations["/decoder/layer_norm/LayerNormalization_output_0"].amax
    assert found == pytest.approx(representable_amax(float(max(seen))), rel=2e-3)


@pytest.mark.parametrize("changes", [{}, {"correction": "fade", "weight_bits": 4}])
def test_padding_enters_nothing(graphs, features, changes):
    whole, single = (table_to_json(made(graphs, items, **changes)) for items in (features, alone(features)))
    assert whole == single


@pytest.mark.parametrize("correction", ["qep", "fade"])
def test_without_an_error_nothing_changes(graphs, features, tmp_path, monkeypatch, correction):
    """Weights that lie on their grid already, in front of activations in floating point."""
    table = made(graphs, features, weight_only=True)
    rounded = PairGraphs(tmp_path / "encoder.onnx", tmp_path / "decoder.onnx")
    for model, path in zip(quantized(graphs, table), (rounded.encoder, rounded.decoder), strict=True):
        onnx.save(model, path)
    noted = noted_sqnr(monkeypatch)
    again = made(rounded, features, weight_only=True, correction=correction, alpha=1.0)
    held = initializers(models(rounded)[0]) | initializers(models(rounded)[1])
    assert noted == [np.inf, np.inf]
    assert again.corrected.keys() > table.corrected.keys()  # biases too
    for name, values in again.corrected.items():
        np.testing.assert_array_equal(values, held[name])


def test_alpha_zero_is_the_bias_correction_alone(graphs, features):
    plain, zero = (
        made(graphs, features, **changes) for changes in ({"correction": "bias"}, {"correction": "qep", "alpha": 0.0})
    )
    assert plain.corrected.keys() == zero.corrected.keys()
    for name, values in plain.corrected.items():
        np.testing.assert_array_equal(zero.corrected[name], values)


@pytest.mark.parametrize("correction", ["none", "fade"])
def test_each_stream_of_the_decoder_starts_from_its_own_encoder(graphs, features, monkeypatch, correction):
    fed = []
    real = calibrate_pair.correct

    def correct(given, full, quantized=None):
        sides = [[dict(feed) for feed in side] if side else None for side in (full, quantized)]
        fed.append(sides)
        return real(given, *sides)

    monkeypatch.setattr(calibrate_pair, "correct", correct)
    table = made(graphs, features, correction=correction, weight_bits=4)
    exact, _ = run(models(graphs), features)
    rounded, _ = run(quantized(graphs, table), features)
    assert fed[0][1] is None
    for side, expected in zip(fed[1], (exact, rounded), strict=True):
        for feed, outputs, tokens in zip(side, expected, features.tokens, strict=True):
            np.testing.assert_array_equal(feed["tokens"], tokens[None])
            assert feed["past_key.1"].shape[2] == 0
            for name in ("cross_key.0", "cross_value.1"):
                np.testing.assert_allclose(feed[name], outputs[name], atol=1e-4)
    assert np.abs(exact[0]["cross_key.0"] - rounded[0]["cross_key.0"]).max() > 0.01


@pytest.mark.parametrize(
    "changes",
    [
        {"weight_bits": 4},
        {"correction": "fade", "weight_bits": 4},
        {"correction": "bias"},
        {"correction": "qep", "rounding": "gptq", "weight_bits": 3, "weight_only": True},
    ],
)
def test_the_walk_computes_what_both_quantized_graphs_compute(graphs, features, monkeypatch, changes):
    noted = noted_sqnr(monkeypatch)
    table = made(graphs, features, **changes)
    (encoded, logits), (other, found) = (run(pair, features) for pair in (models(graphs), quantized(graphs, table)))
    assert noted[0] == pytest.approx(output_sqnr(*([x["encoded"] for x in side] for side in (encoded, other))), abs=0.1)
    assert noted[1] == pytest.approx(output_sqnr(logits, found), abs=0.1)


def test_table_and_both_graphs_agree_bit_for_bit(graphs, features, fade):
    _, cached = parse_cache(cache_text(fade))
    corrected = 0
    for model, qdq in zip(models(graphs), quantized(graphs, fade), strict=True):
        part, stored = own_part(fade, model), initializers(qdq)
        biases = {name: values for name, (name, values) in correcting.added_biases(model).items()}
        cpu = quantize_for_cpu(with_corrections(model, part, [node.name for node in model.graph.node]), part).model
        integers = [values for values in initializers(cpu).values() if values.dtype == np.int8]
        for name, values in part.corrected.items():
            corrected += 1
            if name in biases:
                assert not np.array_equal(values, biases[name])
                np.testing.assert_array_equal(stored[name], values)
                continue
            entry = part.weights[name]
            codes = quantize_weight(values, entry.scales, entry.axis)
            assert np.abs(codes).max() == 7
            np.testing.assert_array_equal(codes * entry.scales, values)  # on the grid, exactly
            np.testing.assert_array_equal(stored[f"{name}_int8"], codes)
            np.testing.assert_array_equal(stored[f"{name}_scale"], entry.scales)
            assert any(np.array_equal(found, codes) for found in integers)
        for name, entry in part.activations.items():
            assert cached[name] == entry.scale
            if f"{name}_scale" in stored:
                assert stored[f"{name}_scale"] == entry.scale
    assert corrected == len(fade.corrected) > 50


def test_the_files_hold_the_table_bit_for_bit(fade, tmp_path):
    again = read_table(write_table(tmp_path, "m", fade)[0])
    assert again.corrected.keys() == fade.corrected.keys()
    for name, values in fade.corrected.items():
        np.testing.assert_array_equal(again.corrected[name], values)
    assert (again.alphas, again.activations.keys()) == (fade.alphas, fade.activations.keys())


def test_encoder_and_decoder_layers_are_ranked_by_themselves(graphs, features, fade):
    settings = replace(PLAIN, correction="fade", weight_bits=4)
    found = pair_ranks(models(graphs), (settings, replace(settings, exclude=())))
    encoder = {name: rank for name, rank in found.items() if name.startswith("/encoder/")}
    decoder = {name: rank for name, rank in found.items() if name not in encoder}
    assert len(encoder) == 2 * 6
    assert len(decoder) == 2 * 10 + 1
    assert sum("encoder_attn" in name for name in decoder) == 2 * 4  # keys and values, from the encoder's graph
    for ranks in (encoder, decoder):
        assert sorted(ranks.values())[:: len(ranks) - 1] == [0.0, 1.0]
    assert fade.alphas.keys() == found.keys()
    assert all(0 <= alpha <= (1 + found[name]) / 2 for name, alpha in fade.alphas.items())


def test_weights_alone(graphs, features):
    table = made(graphs, features, weight_only=True, weight_bits=3, correction="qep", rounding="gptq", damping=1.0)
    assert table.activations == {}
    for model, found in zip(models(graphs), quantized(graphs, table), strict=True):
        assert [node.op_type for node in found.graph.node] == [node.op_type for node in model.graph.node]
        for name, values in own_part(table, model).corrected.items():
            np.testing.assert_array_equal(initializers(found)[name], values)
    assert sum(name in table.weights for name in table.corrected) == 2 * 6 + 2 * 10 + 1
    assert {
        np.abs(quantize_weight(table.corrected[name], table.weights[name].scales, table.weights[name].axis)).max()
        for name in table.corrected
        if name in table.weights
    } == {3}


def test_the_four_methods_of_the_papers_order_as_they_should(graphs, features):
    """At three bits, on the features they learn from: rounding to nearest, GPTQ, then QEP and FADE in front of GPTQ."""
    exact = run(models(graphs), features)[1]
    methods = {
        "rtn": {},
        "gptq": {"rounding": "gptq"},
        "qep": {"correction": "qep", "alpha": 0.5, "damping": 1.0, "rounding": "gptq"},
        "fade": {"correction": "fade", "rounding": "gptq"},
    }
    found = {
        name: output_sqnr(
            exact,
            run(quantized(graphs, made(graphs, features, weight_only=True, weight_bits=3, **changes)), features)[1],
        )
        for name, changes in methods.items()
    }
    assert found["rtn"] < found["gptq"] < min(found["qep"], found["fade"])


def test_rounding_a_linear_layer_leaves_its_mean_output_where_it_was(graphs, features, monkeypatch):
    checked = []
    real = correcting.corrected_layer

    def corrected_layer(given, layer, found, rank):
        replaced = real(given, layer, found, rank)
        weight, rounded = (side[layer.node.input[1]] for side in (layer.constants, replaced.constants))
        if layer.node.name in given.biases:
            name, bias = given.biases[layer.node.name]
            mean = np.concatenate([x[0] for x in replaced.inputs]).mean(axis=0, dtype=np.float64)
            checked.append((mean @ weight + bias, mean @ rounded + replaced.constants[name]))
        return replaced

    monkeypatch.setattr(correcting, "corrected_layer", corrected_layer)
    made(graphs, features, correction="bias", weight_bits=4)
    assert len(checked) == 2 * 5 + 2 * 8  # keys have no bias, nor have the logits
    for before, after in checked:
        np.testing.assert_allclose(after, before, atol=1e-4)


def test_excluded_layers_of_either_graph_stay(graphs, features):
    left = ("/encoder/*", "/decoder/layers.0/*")
    table = pair_table(graphs, features, Quantization(correction="fade", exclude=left), {})
    assert table.alphas
    assert not [name for name in table.alphas if name.startswith(("/encoder/", "/decoder/layers.0/"))]
    with pytest.raises(RecipeError, match="matches no"):
        pair_table(graphs, features, Quantization(exclude=("/decoder/layers.9/*",)), {})


@pytest.mark.parametrize(
    "tokens", [(), tiny_features().tokens[:-1], (np.zeros(0, np.int64), *tiny_features().tokens[1:])]
)
def test_every_utterance_needs_tokens(graphs, features, tokens):
    for changes in ({}, {"correction": "bias"}):
        with pytest.raises(UsageError, match="6 utterances, but tokens for"):
            made(graphs, replace(features, tokens=tokens), **changes)


def test_one_utterance_has_no_second_half_to_judge_by(graphs, features):
    one = replace(
        features, batches=(features.batches[0][:1],), lengths=(features.lengths[0][:1],), tokens=features.tokens[:1]
    )
    with pytest.raises(UsageError, match="at least two utterances"):
        made(graphs, one, correction="fade")


RATE = 10.0  # frames per second: utterances of 6, 3.3 and 4.6 seconds


@pytest.fixture(scope="module")
def spoken(graphs, features):
    return teacher_tokens(graphs, features, GENERATION, RATE)


def test_teacher_tokens_are_a_prompt_and_a_sample_of_bounded_length(spoken, features):
    assert [len(tokens) for tokens in spoken.tokens] != [len(tokens) for tokens in features.tokens]
    for tokens, seconds in zip(spoken.tokens, [6.0, 3.3, 4.6] * 2, strict=True):
        said = tokens[3:]
        assert tokens.dtype == np.int64
        assert tuple(tokens[:3]) == GENERATION.prompt
        assert len(said) <= min(round(4 * seconds), GENERATION.max_length - 3)
        assert not set(said) & {*GENERATION.suppress, END}
        assert said[0] not in GENERATION.begin_suppress
    assert len({tuple(tokens) for tokens in spoken.tokens}) == 6
    np.testing.assert_array_equal(spoken.batches[0], features.batches[0])


def test_every_item_says_what_its_seed_makes_it_say(graphs, features, spoken):
    again, by_themselves, other = (
        teacher_tokens(graphs, items, GENERATION, RATE)
        for items in (features, alone(features), replace(features, seed=1))
    )
    for first, second in zip(spoken.tokens, again.tokens, strict=True):
        np.testing.assert_array_equal(first, second)
    for first, second in zip(spoken.tokens, by_themselves.tokens, strict=True):
        np.testing.assert_array_equal(first, second)
    assert [tuple(tokens) for tokens in other.tokens] != [tuple(tokens) for tokens in spoken.tokens]


def test_short_audio_has_room_for_eight_tokens_and_an_empty_item_says_its_prompt(graphs, features):
    endless = replace(GENERATION, end=(), begin_suppress=())
    short = replace(features, lengths=(np.array([3, 0, 60]), features.lengths[1]))
    found = teacher_tokens(graphs, short, endless, RATE)
    assert [len(tokens) for tokens in found.tokens] == [3 + 8, 3, 24, 24, 3 + 13, 3 + 18]
    assert pair_table(graphs, found, PLAIN, {}).activations


def test_a_language_that_the_prompt_lacks_is_drawn(graphs, features):
    rules = replace(GENERATION, prompt=(GENERATION.prompt[0], GENERATION.prompt[2]), languages=(ENGLISH, FRENCH))
    found = teacher_tokens(graphs, features, rules, RATE)
    assert {int(tokens[1]) for tokens in found.tokens} <= {ENGLISH, FRENCH}
    assert all(tokens[2] == GENERATION.prompt[2] for tokens in found.tokens)


def test_tokens_are_drawn_from_the_softmax_of_the_logits():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))

    class Session:
        def run(self, names, inputs):
            return [np.array([np.argmax(logits + inputs["token_bias"])])]

    suppressed = np.array([0, 0, 0, -10000.0], np.float32)
    voice = Voice(Session(), {"positions": np.array([1])}, {"later": suppressed}, np.random.default_rng(0))
    counts = np.bincount([voice.next_token([1], "later") for _ in range(4000)], minlength=4)
    np.testing.assert_allclose(counts / 4000, np.array([0.5, 0.3, 0.15, 0]) / 0.95, atol=0.03)
