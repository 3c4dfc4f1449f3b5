"""One scale table of all parts of a network: what it holds, and that every graph computes with it."""

import weakref
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from exported import NOTED, initializers
from quantized import for_cpu
from stored_table import read_table
from whisper_pair import alone, tiny_features, tiny_whisper

from trtasr.bench.agreement import output_sqnr
from trtasr.engine.cache import cache_text, parse_cache
from trtasr.errors import RecipeError, UsageError
from trtasr.graph.center import center
from trtasr.graph.corrected import with_corrections
from trtasr.graph.integer import first_read, integerize
from trtasr.graph.own_part import own_part
from trtasr.graph.tensors import activation_tensors, added_biases, weight_tensors
from trtasr.network.network import Exported
from trtasr.pipeline import correct as correcting
from trtasr.pipeline import scales
from trtasr.pipeline.correct import group_ranks
from trtasr.pipeline.lock import write_table
from trtasr.pipeline.scales import make_table
from trtasr.quant.ranges import representable_amax
from trtasr.quant.scales import quantize_weight, table_to_json
from trtasr.recipe import Quantization

WEAK = {"correction": "fade", "weight_bits": 4}


@pytest.fixture
def noted(monkeypatch):
    """What the walks say about their outputs, filled as they go."""
    found = []
    monkeypatch.setattr(correcting, "output_sqnr", lambda *both: found.append(output_sqnr(*both)) or found[-1])
    return found


def codes_of(table, name):
    entry = table.weights[name]
    return quantize_weight(table.corrected[name], entry.scales, entry.axis)


def signed(codes):
    """Codes around 0, whether they are stored so or around 128."""
    return codes if codes.dtype == np.int8 else (codes.astype(np.int16) - 128).astype(np.int8)


def test_a_table_has_every_layer_of_every_part(tiny):
    table = tiny.table()
    models = [center(model, own_part(table, model).offsets) for model in tiny.models()]
    assert table.activations.keys() == {name for model in models for name in activation_tensors(model)}
    assert table.weights.keys() == {item.name for model in models for item in weight_tensors(model)}
    assert table.settings == NOTED
    assert not table.corrected
    assert not table.alphas


def test_ranges_of_a_decoder_are_those_of_teacher_forcing(attention):
    seen, module = [], tiny_whisper()
    module.decoder.layer_norm.register_forward_hook(lambda layer, inputs, output: seen.append(output.abs().max()))
    with torch.no_grad():
        for item in attention.features.examples():
            module(*map(torch.from_numpy, (item.features, item.lengths, item.tokens[None])))
    found = attention.table().activations["/decoder/layer_norm/LayerNormalization_output_0"].amax
    assert found == pytest.approx(representable_amax(float(max(seen))), rel=2e-3)


@pytest.mark.parametrize("changes", [{}, WEAK])
def test_padding_enters_nothing(attention, changes):
    single = attention.make(alone(attention.features), **changes)
    assert table_to_json(attention.table(**changes)) == table_to_json(single)


@pytest.mark.parametrize("changes", [{}, {"center": False}, {"correction": "bias"}])
def test_silent_frames_behind_an_utterance_enter_nothing(ctc, changes):
    features = ctc.features
    longer = tuple(np.pad(batch, ((0, 0), (0, 0), (0, 30)), constant_values=9) for batch in features.batches)
    padded = ctc.make(replace(features, batches=longer), **changes)
    assert table_to_json(ctc.table(**changes)) == table_to_json(padded)


class Watched:
    """Counts the examples whose outputs of the part before are still held while a decoder's inputs are made."""

    def __init__(self, part):
        self.part, self.held, self.most = part, [], 0

    def inputs(self, example, seen):
        self.held = [item for item in self.held if item() is not None]
        self.held.append(weakref.ref(seen["cross_key.0"]))
        self.most = max(self.most, len(self.held))
        return self.part.inputs(example, seen)


def watched(tiny):
    """The same network, whose last part is watched."""
    network = tiny.exported.network
    watch = Watched(network.last)
    parts = (*network.parts[:-1], replace(network.last, inputs=watch.inputs))
    return watch, Exported(replace(network, parts=parts), tiny.exported.original, tiny.exported.files)


def test_no_more_is_held_than_an_utterances_tensors_and_the_next_ones(attention):
    watch, exported = watched(attention)
    make_table(exported, attention.features, attention.plain, {})
    assert watch.most <= 2


def test_the_last_part_lets_go_of_what_the_part_before_it_gave(attention, monkeypatch):
    given, held, real = [], [], scales.correct

    def correct(*arguments):
        done, streams = real(*arguments)
        held.append(sum(reference() is not None for reference in given))
        outputs = (*streams.full, *streams.quantized)
        given.extend(weakref.ref(value) for seen in outputs for name, value in seen.items() if "cross" in name)
        return done, streams

    monkeypatch.setattr(scales, "correct", correct)
    attention.make(rounding="gptq")
    assert len(given) == 6 * 2 * 2 * 2
    assert held == [0, 0]


@pytest.mark.parametrize("correction", ["none", "fade"])
def test_each_stream_of_a_part_starts_from_its_own(attention, monkeypatch, correction):
    fed, real = [], scales.correct

    def correct(given, full, quantized=None):
        sides = [[dict(feed) for feed in side] if side else None for side in (full, quantized)]
        fed.append(sides)
        return real(given, *sides)

    monkeypatch.setattr(scales, "correct", correct)
    table = attention.make(correction=correction, weight_bits=4)
    exact, rounded = attention.stream(), attention.stream(table)
    assert fed[0][1] is None
    for side, expected in zip(fed[1], (exact, rounded), strict=True):
        for feed, outputs, tokens in zip(side, expected, attention.features.tokens, strict=True):
            np.testing.assert_array_equal(feed["tokens"], tokens[None])
            assert feed["past_key.1"].shape[2] == 0
            for name in ("cross_key.0", "cross_value.1"):
                np.testing.assert_allclose(feed[name], outputs[name], atol=1e-4)
    assert np.abs(exact[0]["cross_key.0"] - rounded[0]["cross_key.0"]).max() > 0.01


@pytest.mark.parametrize(
    "changes",
    [
        {"weight_bits": 4},
        WEAK,
        {"correction": "bias", "weight_bits": 4},
        {"correction": "qep", "rounding": "gptq", "weight_bits": 3, "weight_only": True},
    ],
)
def test_the_walk_computes_what_the_quantized_graphs_compute(tiny, noted, changes):
    table = tiny.make(**changes)
    exact, found = tiny.stream(), tiny.stream(table)
    judged = [part.judged for part in tiny.exported.network.parts]
    wanted = [output_sqnr(*([seen[name] for seen in side] for side in (exact, found))) for name in judged]
    assert noted == pytest.approx(wanted, abs=0.1)


@pytest.mark.parametrize("correction", ["qep", "fade"])
def test_without_an_error_nothing_changes(attention, tmp_path, noted, correction):
    """Weights that lie on their grid already, in front of activations in floating point."""
    table = attention.table(weight_only=True)
    network, original = attention.exported.network, attention.exported.original
    rounded = Exported(network, original, network.files(tmp_path))
    held = {}
    for model, path in zip(attention.quantized(table), rounded.files, strict=True):
        onnx.save(model, path)
        held |= initializers(model)
    noted.clear()
    settings = replace(attention.plain, weight_only=True, correction=correction, alpha=1.0)
    again = make_table(rounded, attention.features, settings, {})
    assert noted == [np.inf, np.inf]
    assert again.corrected.keys() > table.corrected.keys()  # biases too
    for name, values in again.corrected.items():
        np.testing.assert_array_equal(values, held[name])


def test_alpha_zero_is_the_bias_correction_alone(tiny):
    walked = {"rounding": "gptq", "weight_bits": 6}
    plain, zero = tiny.table(correction="bias", **walked), tiny.table(correction="qep", alpha=0.0, **walked)
    assert plain.alphas == {}
    assert set(zero.alphas.values()) == {0.0}
    assert plain.corrected.keys() == zero.corrected.keys()
    for name, values in plain.corrected.items():
        np.testing.assert_array_equal(zero.corrected[name], values)


def test_strengths_are_per_layer_for_fade_and_one_for_qep(tiny):
    fade, qep = (tiny.table(correction=name, weight_bits=4).alphas for name in ("fade", "qep"))
    assert fade.keys() == qep.keys()
    assert set(qep.values()) == {0.5}
    assert len(set(fade.values())) > 1
    assert all(0 <= alpha <= 1 for alpha in fade.values())


@pytest.mark.parametrize("correction", ["qep", "fade"])
def test_table_cache_and_graphs_agree_bit_for_bit(tiny, correction):
    table = tiny.table(correction=correction, weight_bits=4)
    _, cached = parse_cache(cache_text(table))
    corrected = 0
    for model, graph in zip(tiny.models(), tiny.quantized(table), strict=True):
        fp32, qdq = center(model, own_part(table, model).offsets), initializers(graph)
        part, biases = own_part(table, fp32), dict(added_biases(fp32).values())
        fp32 = with_corrections(fp32, part, [node.name for node in fp32.graph.node])
        cpu = initializers(for_cpu(fp32, part))
        readers = {node.input[1]: node for node in fp32.graph.node if len(node.input) > 1}
        for name, values in part.corrected.items():
            corrected += 1
            if name not in part.weights:
                if name in biases:
                    assert not np.array_equal(values, biases[name])
                    np.testing.assert_array_equal(qdq[name], values)
                continue
            codes, axes = codes_of(part, name), [1] * values.ndim
            axes[part.weights[name].axis] = -1
            assert np.abs(codes).max() == 7
            np.testing.assert_array_equal(codes * part.weights[name].scales.reshape(axes), values)  # on the grid
            np.testing.assert_array_equal(qdq[f"{name}_int8"], codes)
            np.testing.assert_array_equal(qdq[f"{name}_scale"], part.weights[name].scales)
            reader, found = readers[name], signed(cpu[f"{readers[name].name}/weight"])
            as_stored = found if reader.op_type == "MatMul" or found.ndim == 3 else found.T[:, :, None]
            np.testing.assert_array_equal(as_stored, codes)
        for name, entry in part.activations.items():
            assert cached[name] == entry.scale
            if f"{name}_scale" in qdq:
                assert qdq[f"{name}_scale"] == entry.scale
    assert corrected == len(table.corrected) > 5


@pytest.mark.parametrize("correction", ["qep", "fade"])
def test_the_integer_graph_agrees_too(ctc, correction):
    table = ctc.table(correction=correction, weight_bits=4)
    fp32 = center(ctc.models()[0], table.offsets)
    integer = initializers(integerize(with_corrections(fp32, table, [node.name for node in fp32.graph.node]), table))
    for name in table.corrected.keys() & table.weights.keys():
        np.testing.assert_array_equal(integer[f"{name}_uint8"] - np.int16(128), codes_of(table, name))
    assert integer["features_scale"] == table.activations[first_read(fp32, "features")].scale


def test_the_files_hold_the_table_bit_for_bit(tiny, tmp_path):
    table = tiny.table(**WEAK)
    path, _ = write_table(tmp_path, "m", table)
    again = read_table(path)
    assert (again.alphas, again.activations.keys()) == (table.alphas, table.activations.keys())
    assert again.corrected.keys() == table.corrected.keys()
    for name, values in table.corrected.items():
        np.testing.assert_array_equal(again.corrected[name], values)
    first = (tmp_path / "m.safetensors").read_bytes()
    write_table(tmp_path, "m", again)
    assert (tmp_path / "m.safetensors").read_bytes() == first
    (tmp_path / "m.safetensors").write_bytes(first[:-1])
    with pytest.raises(UsageError, match=r"not the weights of m\.json"):
        read_table(path)
    write_table(tmp_path, "m", replace(table, corrected={}))
    assert not (tmp_path / "m.safetensors").exists()


def test_layers_are_ranked_within_their_block(attention):
    settings = replace(attention.plain, **WEAK)
    models = attention.models()
    scored = scales.scores(models, (settings, replace(settings, exclude=())))
    found = group_ranks(scored, attention.exported.original.block)
    encoder = {name: rank for name, rank in found.items() if name.startswith("/encoder/")}
    decoder = {name: rank for name, rank in found.items() if name not in encoder}
    assert len(encoder) == 2 * 6
    assert len(decoder) == 2 * 10 + 1
    assert sum("encoder_attn" in name for name in decoder) == 2 * 4  # keys and values, from the encoder's graph
    for ranks in (encoder, decoder):
        assert sorted(ranks.values())[:: len(ranks) - 1] == [0.0, 1.0]
    alphas = attention.table(**WEAK).alphas
    assert alphas.keys() == found.keys()
    assert all(0 <= alpha <= (1 + found[name]) / 2 for name, alpha in alphas.items())


def test_the_plain_table_needs_no_walk():
    assert not Quantization(correction="none").walked
    for change in ({"correction": "fade"}, {"rounding": "gptq"}, {"weight_bits": 6}, {"weight_only": True}):
        assert replace(Quantization(), **change).walked


def test_eight_bits_without_correction_walk_to_the_same_numbers(tiny, monkeypatch):
    """Ranges differ, as layers read what earlier ones compute in INT8; weights and offsets do not."""
    plain = tiny.table()
    monkeypatch.setattr(Quantization, "walked", property(lambda self: True))
    walked = tiny.make()
    assert walked.weights.keys() >= plain.weights.keys()
    for name, entry in plain.weights.items():
        np.testing.assert_array_equal(walked.weights[name].scales, entry.scales)
    assert table_to_json(walked)["offsets"] == table_to_json(plain)["offsets"]
    assert abs(tiny.sqnr(walked) - tiny.sqnr(plain)) < 1.5


def test_corrections_help_on_their_own_features_at_four_bits(ctc):
    found = {name: ctc.sqnr(ctc.table(correction=name, weight_bits=4)) for name in ("none", "bias", "qep", "fade")}
    assert found["none"] < found["qep"]
    assert found["none"] < found["fade"]
    assert ctc.sqnr(ctc.table()) > found["fade"]  # eight bits
    assert ctc.sqnr(ctc.table(correction="bias", weight_bits=4, rounding="gptq")) > found["bias"]


def test_the_four_methods_of_the_papers_order_as_they_should(attention):
    """At three bits, on the features they learn from: rounding to nearest, GPTQ, then QEP and FADE in front of GPTQ."""
    methods = {
        "rtn": {},
        "gptq": {"rounding": "gptq"},
        "qep": {"correction": "qep", "alpha": 0.5, "damping": 1.0, "rounding": "gptq"},
        "fade": {"correction": "fade", "rounding": "gptq"},
    }
    found = {
        name: attention.sqnr(attention.table(weight_only=True, weight_bits=3, **changes))
        for name, changes in methods.items()
    }
    assert found["rtn"] < found["gptq"] < min(found["qep"], found["fade"])


def test_an_excluded_layer_is_neither_quantized_nor_corrected(ctc):
    name = "/encoder/encoder.1/mconv.1/conv/Conv"
    table = ctc.make(correction="fade", exclude=(name,))
    assert name not in table.alphas
    assert not any("encoder.1.mconv.1" in key for key in table.corrected)


def test_excluded_layers_of_either_part_stay(attention):
    table = attention.make(correction="fade", exclude=("/encoder/*", "/decoder/layers.0/*"))
    assert table.alphas
    assert not [name for name in table.alphas if name.startswith(("/encoder/", "/decoder/layers.0/"))]


def test_a_pattern_that_matches_in_no_part_is_refused(tiny):
    with pytest.raises(RecipeError, match=r"exclude: '/decoder/layers\.9/\*' matches no") as caught:
        tiny.make(exclude=("/decoder/layers.9/*",))
    assert caught.value.repair


@pytest.mark.parametrize(
    "tokens", [(), tiny_features().tokens[:-1], (np.zeros(0, np.int64), *tiny_features().tokens[1:])]
)
@pytest.mark.parametrize("changes", [{}, {"correction": "bias"}])
def test_every_utterance_needs_the_tokens_that_a_decoder_reads(attention, tokens, changes):
    with pytest.raises(UsageError, match="without tokens"):
        attention.make(replace(attention.features, tokens=tokens), **changes)


def test_one_utterance_has_no_second_half_to_judge_by(tiny):
    features = tiny.features
    one = replace(
        features, batches=(features.batches[0][:1],), lengths=(features.lengths[0][:1],), tokens=features.tokens[:1]
    )
    with pytest.raises(UsageError, match="at least two utterances"):
        tiny.make(one, correction="fade")
    assert tiny.make(one, correction="bias").corrected
