import dataclasses
from functools import partial

import numpy as np
import onnx
import pytest
import torch
from integer_graphs import lengths_batch, opened, parsed
from onnx import helper
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
from tiny_archive import conformer_network
from tiny_network import table_of

from trtasr.errors import BuildError
from trtasr.graph import integer
from trtasr.graph.check import run_graph
from trtasr.graph.codes import Codes
from trtasr.graph.edit import consumers
from trtasr.graph.export import export_onnx, fold_batchnorm
from trtasr.graph.integer import LONGEST_FRAMES, integerize
from trtasr.graph.integer_build import Builder
from trtasr.graph.positions import position_tables
from trtasr.models.attention import relative_positions
from trtasr.quant.fixed_point import LONGEST
from trtasr.quant.integer import IntegerExecutor
from trtasr.values import ScaleTable

MEL, WIDTH, SHORT = 16, 16, 12


@pytest.fixture(scope="module")
def fp32(tmp_path_factory, one_thread):
    network = conformer_network(
        feat_in=MEL, d_model=WIDTH, n_heads=2, conv_kernel_size=5, ff_expansion_factor=2, subsampling_conv_channels=4
    )
    path = tmp_path_factory.mktemp("positions") / "model.onnx"
    export_onnx(fold_batchnorm(network), path, MEL)
    return onnx.load(path)


@pytest.fixture(scope="module")
def table(fp32):
    return table_of(fp32, lengths_batch([61, 40], MEL))


@pytest.fixture(scope="module")
def positions(fp32):
    (found,) = position_tables(fp32).values()
    return found


def rows(values, frames):
    """What `frames` frames read of a table for `LONGEST`."""
    middle = values.shape[1] // 2
    return values[:, middle - frames : middle + frames]


@pytest.mark.parametrize("frames", [1, 2, 17, 400, LONGEST])
def test_rows_are_the_networks_relative_positions(positions, frames):
    expected = relative_positions(frames, WIDTH, torch.zeros(1)).numpy()
    assert positions.values.dtype == np.float32
    assert positions.values.shape == (1, 2 * LONGEST, WIDTH)
    assert np.abs(rows(positions.values, frames) - expected).max() < 1e-6


def test_first_and_last_rows_are_the_longest_distances(positions):
    distances = np.arange(LONGEST, -LONGEST, -1)
    assert np.abs(positions.values[0, :, 0] - np.sin(distances.astype(np.float32))).max() < 1e-6
    assert np.abs(positions.values[0, :, 1] - np.cos(distances.astype(np.float32))).max() < 1e-6


def test_the_table_replaces_what_every_layer_reads(fp32, positions):
    readers = [node for node in consumers(fp32)[positions.name] if node.op_type == "MatMul"]
    assert [node.name for node in readers] == [
        f"/encoder/layers.{index}/self_attn/linear_pos/MatMul" for index in range(2)
    ]


def looked_up(positions, read, frames):
    """Codes that the emitted nodes give for so many frames."""
    build = Builder(ScaleTable({}, {}), {"p": read}, {}, {})
    dataclasses.replace(positions, name="p", frames="frames").look_up(build)
    output = helper.make_tensor_value_info(build.codes_of["p"], onnx.TensorProto.UINT8, ["one", "rows", "width"])
    inputs = [helper.make_tensor_value_info("frames", onnx.TensorProto.INT64, [])]
    graph = helper.make_graph(build.nodes, "look_up", inputs, [output], list(build.initializers.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return run_graph(model, {"frames": np.array(frames)})[output.name]


@pytest.mark.parametrize("frames", [1, 5, 30, LONGEST])
@pytest.mark.parametrize("read", [Codes(np.float32(1 / 127), 128), Codes(np.float32(0.01), 37)])
def test_codes_that_are_looked_up_are_those_of_quantizelinear(positions, frames, read):
    quantized = parsed(
        "float[A,P,W] x", "uint8[A,P,W] y", "y = QuantizeLinear(x, s, z)", {"s": read.scale, "z": np.uint8(read.zero)}
    )
    expected = run_graph(quantized, {"x": rows(positions.values, frames)})["y"]
    found = looked_up(positions, read, frames)
    assert np.array_equal(found, expected)
    assert len(np.unique(found)) > 5


def test_no_sine_is_left_in_the_integer_graph(fp32, table):
    model = integerize(fp32, table)
    kinds = {node.op_type for node in model.graph.node}
    assert kinds.isdisjoint({"Sin", "Cos", "Exp"})
    assert {item.key: item.value for item in model.metadata_props}[LONGEST_FRAMES] == str(LONGEST)
    stored = [item for item in model.graph.initializer if list(item.dims) == [1, 2 * LONGEST, WIDTH]]
    assert [item.data_type for item in stored] == [onnx.TensorProto.UINT8]


def test_graphs_without_positions_have_no_table():
    assert position_tables(parsed("float[N] x", "float[N] y", "y = Relu(x)")) == {}


@pytest.mark.parametrize(
    "body", ["[wave] y = Sin(x)", "[times] z = Mul(x, x) [wave] y = Sin(z)", "[wide] z = Abs(x) [wave] y = Sin(z)"]
)
def test_sines_of_something_else_are_refused(body):
    with pytest.raises(BuildError, match=r"wave: .*positions"):
        position_tables(parsed("float[N] x", "float[N] y", body))


# Speech that is longer than the table


@pytest.fixture(scope="module")
def short(fp32, table):
    """The integer graph with a table for few frames."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(integer, "position_tables", partial(position_tables, longest=SHORT))
        return integerize(fp32, table)


@pytest.fixture(scope="module")
def session(short):
    return opened(short)


def test_the_longest_speech_that_fits_reads_the_whole_table(short, session, fp32, table):
    feeds = lengths_batch([4 * SHORT, 3 * SHORT], MEL)
    expected, _ = IntegerExecutor(integerize(fp32, table))(feeds["features"], feeds["lengths"])
    assert expected.shape[1] == SHORT
    assert np.array_equal(session(feeds)["logits"], expected)
    assert np.array_equal(IntegerExecutor(short)(feeds["features"], feeds["lengths"])[0], expected)


@pytest.mark.parametrize("frames", [SHORT + 1, SHORT + 5, 2 * SHORT, 2 * SHORT + 1, 3 * SHORT, 4 * SHORT, 100])
def test_longer_speech_is_an_error_and_not_a_wrong_answer(short, session, frames):
    """Slice then starts before the first row and gives too few of them: no shape behind it fits."""
    feeds = lengths_batch([4 * frames, 4], MEL)
    with pytest.raises(Fail, match="Reshape node"):
        session(feeds)
    with pytest.raises(ValueError, match="cannot reshape"):
        IntegerExecutor(short)(feeds["features"], feeds["lengths"])


def test_padding_counts_as_speech(session):
    feeds = lengths_batch([4 * SHORT + 4, 8], MEL)
    with pytest.raises(Fail, match="Reshape node"):
        session({**feeds, "lengths": np.array([8, 8])})
