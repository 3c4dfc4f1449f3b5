"""Whole networks in integer arithmetic: ONNX Runtime and the executor, the twin with Q/DQ nodes, padding, refusals."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from integer_graphs import lengths_batch, opened, twin_of, with_log_probs
from onnx import TensorProto, helper, numpy_helper
from tiny_archive import block, conformer_network
from tiny_network import sqnr_db, table_of
from torch import nn

from trtasr.errors import BuildError, UsageError
from trtasr.graph.check import check_model, run_graph
from trtasr.graph.edit import producers
from trtasr.graph.export import export_onnx, fold_batchnorm
from trtasr.graph.integer import LOGITS_SCALE, LONGEST_FRAMES, integerize
from trtasr.graph.integer_proof import prove
from trtasr.models.jasper import JasperCtc
from trtasr.quant.integer import IntegerExecutor
from trtasr.values import ScaleTable, WeightScale

MEL = 16
LENGTHS = (61, 40)
CONFORMER = {"feat_in": MEL, "d_model": 16, "n_heads": 2, "conv_kernel_size": 5, "ff_expansion_factor": 2}
SEPARABLE = [block(16, 5, stride=[2]), block(16, 5, repeat=2, residual=True), block(16, 1, separable=False)]
DENSE = [
    block(16, 5, stride=[2], separable=False),
    *(block(16, 3, repeat=repeat, residual=True, residual_dense=True, separable=False) for repeat in (2, 1)),
    block(24, 3, separable=False, dilation=[2]),
]
JASPERS = {
    "quartznet": {"jasper": SEPARABLE},
    "jasper": {"jasper": DENSE},
    "max": {"jasper": SEPARABLE, "residual_mode": "max"},
    "first block": {
        "jasper": [block(16, 5, residual=True), block(16, 5, stride=[2], residual=True, residual_mode="stride_add")]
    },
    "hardtanh": {"jasper": SEPARABLE, "activation": "hardtanh"},
    "swish": {"jasper": SEPARABLE, "activation": "swish"},
    "future context": {
        "jasper": [block(16, 5, stride=[2], future_context=1), block(16, 5, repeat=2, residual=True, future_context=0)]
    },
}
CONFORMERS = {
    "striding": {},
    "dw_striding": {
        "subsampling": "dw_striding",
        "subsampling_factor": 8,
        "subsampling_conv_channels": 8,
        "use_bias": False,
        "xscaling": False,
    },
    "vggnet": {"subsampling": "vggnet", "subsampling_conv_channels": 8, "feat_out": 12},
}
# Measured: 60 to 106 dB and steps of 1; 47 to 50 dB and 3 steps, where the twin itself is 44 dB from the float graph.
FLOOR_DB, STEPS = {False: 50, True: 42}, {False: 1, True: 5}


def jasper(**encoder):
    """A Jasper whose batch norms have statistics of their own."""
    torch.manual_seed(0)
    network = JasperCtc({"feat_in": MEL, "activation": "relu"} | encoder, {"vocabulary": list("abcdefghijkl")})
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.weight.data.uniform_(0.8, 1.5)
            module.bias.data.normal_(0, 0.2)
    network.train()
    with torch.no_grad():
        for _ in range(10):
            network(torch.randn(4, MEL, 60), torch.full((4,), 60))
    network.decoder.decoder_layers[0].weight.data.mul_(6)
    return network.eval().requires_grad_(False)


def exported(network, folder):
    export_onnx(fold_batchnorm(network), folder / "model.onnx", MEL)
    return onnx.load(folder / "model.onnx")


@dataclass(frozen=True)
class Case:
    """A network's FP32 graph, its table and its integer graph, opened once.

    Attributes:
        conformer: else a Jasper.
        bounds: of the executor, as proved.
        twin: graph with Q/DQ nodes.
        outputs: of the integer graph on the feeds.
    """

    name: str
    conformer: bool
    fp32: onnx.ModelProto
    table: ScaleTable
    model: onnx.ModelProto
    twin: onnx.ModelProto
    bounds: dict
    run: Any
    feeds: dict
    outputs: dict


@pytest.fixture(scope="module", params=[*JASPERS, *CONFORMERS])
def case(request, one_thread, tmp_path_factory):
    name, folder = request.param, tmp_path_factory.mktemp("integer")
    network = jasper(**JASPERS[name]) if name in JASPERS else conformer_network(**CONFORMER, **CONFORMERS[name])
    fp32, feeds = exported(network, folder), lengths_batch(LENGTHS, MEL)
    table = table_of(fp32, feeds)
    model = integerize(fp32, table)
    run, bounds = opened(model), {item.node: item.bound for item in prove(model, 5000).accumulators}
    return Case(name, name in CONFORMERS, fp32, table, model, twin_of(fp32, table), bounds, run, feeds, run(feeds))


@pytest.fixture
def executor(case):
    """The executor of a case, which stops at every sum beyond its proved bound."""
    return lambda model=case.model: IntegerExecutor(model, case.bounds)


def alone(feeds, item):
    """One utterance of a batch, without its padding."""
    return {
        "features": feeds["features"][item : item + 1, :, : feeds["lengths"][item]],
        "lengths": feeds["lengths"][item : item + 1],
    }


def assert_same(outputs, executed):
    assert np.array_equal(outputs["logits"], executed[0])
    assert np.array_equal(outputs["output_lengths"], executed[1])


def test_graph_is_valid_and_its_outputs_are_integers(case):
    check_model(case.model)
    inputs, outputs = (
        [item.type.tensor_type.elem_type for item in side] for side in (case.model.graph.input, case.model.graph.output)
    )
    assert inputs == [TensorProto.FLOAT, TensorProto.INT64]
    assert outputs == [TensorProto.INT32, TensorProto.INT64]
    assert [item.name for item in case.model.graph.output] == ["logits", "output_lengths"]
    names = [node.name for node in case.model.graph.node]
    assert len(set(names)) == len(names)
    called = {node.op_type for node in case.model.graph.node if node.domain}
    assert called <= {item.name for item in case.model.functions}


def test_metadata_says_what_a_logit_is_and_how_long_speech_may_be(case):
    facts = {item.key: item.value for item in case.model.metadata_props}
    assert facts.keys() == {LOGITS_SCALE, *([LONGEST_FRAMES] if case.conformer else [])}
    assert 0 < float(facts[LOGITS_SCALE]) < 1e-4
    assert facts.get(LONGEST_FRAMES, "5000") == "5000"


def test_weighted_nodes_keep_their_names_and_read_codes(case):
    sites = {
        node.name: node
        for node in case.fp32.graph.node
        if node.op_type in ("Conv", "MatMul") and node.input[1] in case.table.weights
    }
    made = {node.name: node for node in case.model.graph.node if node.op_type in ("ConvInteger", "MatMulInteger")}
    assert made.keys() == sites.keys()
    stored = {item.name: numpy_helper.to_array(item) for item in case.model.graph.initializer}
    assert all(stored[node.input[1]].dtype == np.uint8 for node in made.values())
    assert all(int(stored[node.input[3]]) == 128 for node in made.values())


def test_attention_scores_are_summed_in_the_unit_of_the_softmax(case):
    """At a scale for the mask's -10000 they would keep few bits."""
    made = producers(case.model)
    totals = [made[node.input[0]] for node in case.model.graph.node if node.op_type == "Softmax"]
    assert len(totals) == 2 * case.conformer
    assert {node.op_type for node in totals} <= {"Add"}


def test_executor_equals_onnx_runtime_bit_for_bit(case, executor):
    assert_same(case.outputs, executor()(case.feeds["features"], case.feeds["lengths"]))
    for item in range(len(LENGTHS)):
        feeds = alone(case.feeds, item)
        assert_same(case.run(feeds), executor()(feeds["features"], feeds["lengths"]))


@pytest.mark.parametrize("lengths", [[1], [2, 1], [33, 0], [7, 7, 3], [90]], ids=str)
def test_executor_equals_onnx_runtime_at_other_shapes(case, executor, lengths):
    feeds = lengths_batch(lengths, MEL, seed=len(lengths))
    assert_same(case.run(feeds), executor()(feeds["features"], feeds["lengths"]))


LOUD = {"saturated": 1e9, "negative": -1e9, "silent": 0.0, "hundredfold": None}


@pytest.mark.parametrize("loudness", LOUD)
def test_no_input_takes_a_sum_beyond_its_proved_bound(case, executor, loudness):
    value = LOUD[loudness]
    features = 100 * case.feeds["features"] if value is None else np.full_like(case.feeds["features"], value)
    feeds = {**case.feeds, "features": features}
    assert_same(case.run(feeds), executor()(feeds["features"], feeds["lengths"]))


def test_output_lengths_are_those_of_the_float_graph(case):
    for lengths in (LENGTHS, [1], [2, 1], [33, 8, 7], [90, 64]):
        feeds = lengths_batch(lengths, MEL)
        assert np.array_equal(case.run(feeds)["output_lengths"], run_graph(case.fp32, feeds)["output_lengths"])


def test_log_probabilities_are_those_of_the_twin_but_for_roundings(case):
    twin, found = run_graph(case.twin, case.feeds), with_log_probs(case.model, case.outputs)
    assert found["log_probs"].shape == twin["log_probs"].shape
    assert sqnr_db(twin, found) > FLOOR_DB[case.conformer]
    reference = run_graph(case.fp32, case.feeds)
    assert sqnr_db(reference, found) > sqnr_db(reference, twin) - 2


def codes_of_twin(case):
    """Tensor -> codes minus zero point of what every weighted layer of the twin reads, and zero points."""
    stored = {item.name: numpy_helper.to_array(item) for item in case.twin.graph.initializer}
    zeros = {node.output[0]: stored[node.input[2]] for node in case.twin.graph.node if node.op_type == "QuantizeLinear"}
    outlets = onnx.ModelProto()
    outlets.CopyFrom(case.twin)
    outlets.graph.output.extend(
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(zero.dtype), None)
        for name, zero in zeros.items()
    )
    found = run_graph(outlets, case.feeds, list(zeros))
    return {name: codes - zeros[name].astype(int) for name, codes in found.items()}, zeros


def agreement(case, codes):
    """Largest difference of codes from the twin's, and largest deviation of their common factor from 1."""
    twin, zeros = codes_of_twin(case)
    assert codes.keys() == twin.keys()
    centered = {name: codes[name] - zeros[name].astype(int) for name in twin}
    factors = [(centered[name] * item).sum() / np.square(item).sum() for name, item in twin.items()]
    return max(np.abs(centered[name] - item).max() for name, item in twin.items()), max(abs(f - 1) for f in factors)


def test_every_layer_reads_the_codes_of_the_twin_but_for_roundings(case, executor):
    steps, factor = agreement(case, executor().run(case.feeds, codes_of_twin(case)[1]))
    assert steps <= STEPS[case.conformer]
    assert factor < 0.004


def test_a_scale_that_is_off_by_three_percent_is_noticed(case, executor):
    changed = onnx.ModelProto()
    changed.CopyFrom(case.model)
    factors = [item for item in changed.graph.initializer if item.name.endswith("_quantized_raised_multiplier")]
    chosen = factors[len(factors) // 2]
    wrong = np.rint(numpy_helper.to_array(chosen) * 1.03).astype(np.int64)
    chosen.CopyFrom(numpy_helper.from_array(wrong, chosen.name))
    steps, factor = agreement(case, executor(changed).run(case.feeds, codes_of_twin(case)[1]))
    assert steps > 1
    assert factor > 0.01


def test_padding_never_leaks(case):
    padded = np.arange(LENGTHS[0]) >= case.feeds["lengths"][:, None, None]
    noisy = {**case.feeds, "features": np.where(padded, np.float32(100), case.feeds["features"])}
    dirty = case.run(noisy)["logits"]
    for item in range(len(LENGTHS)):
        single = case.run(alone(case.feeds, item))
        frames = int(single["output_lengths"][0])
        assert frames == case.outputs["output_lengths"][item]
        for batch in (case.outputs["logits"], dirty):
            assert np.array_equal(batch[item, :frames], single["logits"][0, :frames])


def test_the_pass_is_deterministic_and_changes_neither_graph_nor_table(case):
    before = case.fp32.SerializeToString()
    assert integerize(case.fp32, case.table).SerializeToString() == case.model.SerializeToString()
    assert case.fp32.SerializeToString() == before


# Other networks


def test_network_without_masks(tmp_path):
    """Its first layer reads the features as they are."""
    fp32, feeds = exported(jasper(jasper=SEPARABLE, conv_mask=False), tmp_path), lengths_batch(LENGTHS, MEL)
    table = table_of(fp32, feeds)
    model = integerize(fp32, table)
    check_model(model)
    outputs = opened(model)(feeds)
    assert_same(outputs, IntegerExecutor(model)(feeds["features"], feeds["lengths"]))
    assert sqnr_db(run_graph(twin_of(fp32, table), feeds), with_log_probs(model, outputs)) > 50


@pytest.mark.parametrize(("activation", "node"), [("gelu", "Gelu"), ("selu", "Selu")])
def test_other_activations_are_refused_by_name(activation, node, tmp_path):
    fp32 = exported(jasper(jasper=SEPARABLE, activation=activation), tmp_path)
    with pytest.raises(BuildError, match=rf"/encoder/encoder\.0/mout/mout\.0/{node}: "):
        integerize(fp32, table_of(fp32, lengths_batch(LENGTHS, MEL)))


@pytest.fixture(scope="module")
def quartznet(tmp_path_factory):
    return exported(jasper(jasper=SEPARABLE), tmp_path_factory.mktemp("quartznet"))


POINTWISE = "encoder.encoder.0.mconv.1.conv"


def edited(model, **changes):
    """A copy with other values in channel 3 of the first pointwise convolution."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for item in result.graph.initializer:
        part = item.name.removeprefix(f"{POINTWISE}.")
        if part in changes:
            values = numpy_helper.to_array(item).copy()
            values[3] = changes[part]
            item.CopyFrom(numpy_helper.from_array(values, item.name))
    return result


def test_missing_scales_name_the_tensor(quartznet):
    table = table_of(quartznet, lengths_batch(LENGTHS, MEL))
    read = "/encoder/encoder.0/mconv.1/Mul_output_0"
    fewer = {name: entry for name, entry in table.activations.items() if name != read}
    with pytest.raises(UsageError, match=f"activation .*'{read}'"):
        integerize(quartznet, dataclasses.replace(table, activations=fewer))
    weights = {name: entry for name, entry in table.weights.items() if name != f"{POINTWISE}.weight"}
    with pytest.raises(UsageError, match=f"weight '{POINTWISE}.weight'"):
        integerize(quartznet, dataclasses.replace(table, weights=weights))


@pytest.mark.parametrize(
    ("weight", "scale", "bias"),
    [
        (1e-9, 1e-11, 0.7),
        (1e-20, 1e-22, 0.7),
        (0.0, 1e-10, 0.7),
        (0.0, 1e-10, 0.0),
        (0.0, 1e-30, -3.0),
        (0.0, 1.0, 0.7),
    ],
)
def test_channels_that_are_all_bias_or_dead(quartznet, weight, scale, bias):
    """At scale s_a s_w their bias would not fit an int32: their scale grows until it does."""
    fp32, feeds = edited(quartznet, weight=weight, bias=bias), lengths_batch(LENGTHS, MEL)
    table, name = table_of(fp32, feeds), f"{POINTWISE}.weight"
    scales = table.weights[name].scales.copy()
    scales[3] = scale
    table = dataclasses.replace(table, weights={**table.weights, name: WeightScale(scales, 0, floored=(3,))})
    model = integerize(fp32, table)
    sums = next(item for item in model.graph.initializer if item.name.endswith("mconv.1/conv/Conv_output_0_addend"))
    assert np.abs(numpy_helper.to_array(sums).astype(np.int64)).max() <= 2**30
    outputs = opened(model)(feeds)
    assert_same(outputs, IntegerExecutor(model)(feeds["features"], feeds["lengths"]))
    found = with_log_probs(model, outputs)
    assert sqnr_db(run_graph(twin_of(fp32, table), feeds), found) > 50
    if bias > 0:  # the channel is heard: without its bias the result is another
        silent = run_graph(edited(fp32, weight=weight, bias=0.0), feeds)
        assert sqnr_db(silent, found) < 35
