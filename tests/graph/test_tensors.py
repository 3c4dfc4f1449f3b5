import numpy as np
import onnx
from onnx import numpy_helper
from tiny_network import CHANNELS, CLASSES, MEL, with_outputs

from trtasr.graph.check import run_graph
from trtasr.graph.tensors import (
    activation_tensors,
    data_path,
    layer_outputs,
    lookups,
    sites,
    weight_tensors,
)
from trtasr.graph.traffic import macs_per_second


def test_activations_are_the_data_path_and_nothing_else(fp32, feeds):
    names = activation_tensors(fp32)
    assert names[0] == "features"
    assert "log_probs" not in names
    data = {"Conv", "Relu", "Mul", "Add", "Transpose"}
    assert "output_lengths" not in names
    made = [node.output[0] for node in fp32.graph.node if node.op_type in data]
    assert set(names) == {"features", *made} - {"output_lengths"}
    values = run_graph(with_outputs(fp32, names), feeds)
    assert list(values) == list(names[1:])
    assert all(value.dtype == np.float32 and value.ndim == 3 for value in values.values())


def test_weights_and_sites_describe_each_convolution(fp32):
    described = sites(fp32)
    assert len(described) == len(weight_tensors(fp32)) == 9
    stem, decoder = described[0], described[-1]
    assert (stem.groups, stem.kernel, stem.stride, stem.in_channels) == (MEL, (5,), (2,), MEL)
    assert (decoder.in_channels, decoder.out_channels, decoder.kernel) == (CHANNELS, CLASSES, (1,))
    assert all(weight.axis == 0 for weight in weight_tensors(fp32))


def test_macs_count_weights_times_frame_rate_after_striding(fp32):
    macs = macs_per_second(fp32, frames_per_second=100)
    assert macs["/decoder/decoder.0/Conv"] == CHANNELS * CLASSES * 50
    assert macs["/dense.0/conv/Conv"] == CHANNELS * CHANNELS * 3 * 50
    assert macs["/stem.0/conv/Conv"] == MEL * 5 * 50
    assert len(macs) == 9


def test_layer_outputs_are_products_and_their_sums_with_a_bias(conformer):
    names = layer_outputs(conformer.fp32)
    assert "/encoder/layers.0/feed_forward1/linear1/MatMul_output_0" in names
    assert "/encoder/layers.0/feed_forward1/linear1/Add_output_0" in names
    assert "/encoder/layers.0/self_attn/MatMul_2_output_0" in names
    assert not [name for name in names if name.endswith("Add_1_output_0") and "linear" not in name]  # residual
    assert len(names) == len(set(names))


def test_lookups_are_rows_of_float_tables_only(fp32, pair):
    assert lookups(pair.decoder) == ("/decoder/embed_tokens/Gather", "/decoder/embed_positions/Gather")
    assert lookups(pair.encoder) == lookups(fp32) == ()  # a slice of a table is none
    graph = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
        g (int64[B] ids, float[4, 2] given) => (float[B, 2] a, int64[B, 2] b, float[B] c, float[B, 2] d) {
            [table] a = Gather (rows, ids)
            [integers] b = Gather (numbers, ids)
            [vector] c = Gather (scales, ids)
            [input] d = Gather (given, ids)
        }""")
    rows, numbers = (np.ones((4, 2), kind) for kind in (np.float32, np.int64))
    tables = {"rows": rows, "numbers": numbers, "scales": rows[:, 0]}
    graph.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in tables.items())
    assert lookups(graph) == ("table",)
    assert data_path(graph) == ("given", "a")


def test_what_a_decoder_computes_from_its_embeddings_has_ranges(pair):
    """Tokens are integers: without the embeddings only what the caches enter would be on the path."""
    path = data_path(pair.decoder)
    assert {"/decoder/embed_tokens/Gather_output_0", "/decoder/embed_positions/Gather_output_0"} < set(path)
    names = activation_tensors(pair.decoder)
    assert "/decoder/layers.0/self_attn_layer_norm/LayerNormalization_output_0" in names
    assert "logits" in names
    assert not {"token_bias", "past_key.0", "next_tokens", "next_log_probs"} & set(names)
    assert names == tuple(name for name in path if name in names)
    assert len(weight_tensors(pair.decoder)) == len(sites(pair.decoder)) == 2 * 8 + 1
