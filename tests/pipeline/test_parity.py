"""FP32 graphs compute what the checkpoint computes, or the compile ends."""

import logging
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from trtasr.errors import QualityError
from trtasr.network.network import Exported
from trtasr.pipeline.export import centered
from trtasr.pipeline.parity import prove_parity, valid_rows


def with_weight(graphs, folder, part, name, change):
    """The same graphs, one weight of one part changed."""
    files = graphs.network.files(folder)
    for index, (source, file) in enumerate(zip(graphs.files, files, strict=True)):
        model = onnx.load(source)
        if index == part:
            weight = next(item for item in model.graph.initializer if item.name == name)
            weight.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(weight)), name))
        onnx.save(model, file)
    return Exported(graphs.network, graphs.original, files)


def test_graphs_are_off_by_rounding_alone(tiny):
    usual, _ = tiny.exported.original.tolerance
    assert 0 < prove_parity(tiny.exported) < usual / 5


def test_centering_changes_nothing(ctc, tmp_path):
    table = ctc.table()
    assert table.offsets
    assert prove_parity(centered(ctc.exported, table, tmp_path)) < ctc.exported.original.tolerance[0]


@pytest.mark.parametrize(
    ("kind", "part", "name"),
    [
        ("ctc", 0, "encoder.encoder.0.mconv.1.conv.weight"),
        ("attention", 0, "encoder.layers.0.fc1.bias"),
        ("attention", 1, "decoder.layers.1.fc1.bias"),
    ],
)
def test_a_graph_of_any_part_that_computes_something_else_is_refused(request, tmp_path, kind, part, name):
    graphs = request.getfixturevalue(kind).exported
    broken = with_weight(graphs, tmp_path, part, name, lambda values: values + np.float32(0.05))
    with pytest.raises(QualityError, match=graphs.network.last.judged):
        prove_parity(broken)


def test_other_counts_of_positions_are_refused(tiny):
    original = tiny.exported.original
    name = "output_lengths" if len(tiny.exported.files) == 1 else "positions"

    def reference(example, dtype):
        found = dict(original.reference(example, dtype))
        return found | {name: found[name] + 1}

    with pytest.raises(QualityError, match=name):
        prove_parity(replace(tiny.exported, original=replace(original, reference=reference)))


def test_a_network_that_amplifies_rounding_may_be_off_as_torch_is(tiny, caplog):
    """Torch in float32 is as far off as the graphs are, and both further than usual."""
    graphs = tiny.exported
    judged, (usual, most) = graphs.network.last.judged, graphs.original.tolerance

    def drifting(by):
        def reference(example, dtype):
            found = dict(graphs.original.reference(example, dtype))
            shift = by if dtype == torch.float64 else 0.5 * by
            return found | {judged: found[judged] + shift}

        return replace(graphs, original=replace(graphs.original, reference=reference))

    caplog.set_level(logging.WARNING)
    assert prove_parity(drifting(2 * usual)) == pytest.approx(2 * usual, rel=0.2)
    assert "float32" in caplog.text
    with pytest.raises(QualityError, match=judged):
        prove_parity(drifting(1.2 * most))  # however far torch is off


def test_padded_positions_are_not_compared(ctc):
    network = ctc.exported.network
    found = {"log_probs": np.arange(24.0).reshape(2, 4, 3), "output_lengths": np.array([4, 2])}
    np.testing.assert_array_equal(valid_rows(network, found)[:, 0], [0, 3, 6, 9, 12, 15])
