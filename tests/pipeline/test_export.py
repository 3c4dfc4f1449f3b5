"""FP32 graphs of a checkpoint as a bundle holds them."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

from trtasr.errors import RecipeError
from trtasr.graph.center import center
from trtasr.graph.own_part import own_part
from trtasr.network.network import outputs
from trtasr.pipeline.export import centered, export


def test_every_part_is_a_file_by_its_name(tiny, tmp_path):
    found = export(tiny.exported.network, tiny.exported.original, tmp_path)
    assert found.files == tuple(tmp_path / f"{part.name}.fp32.onnx" for part in found.network.parts)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in found.files}
    for part, file, same in zip(found.network.parts, found.files, tiny.exported.files, strict=True):
        assert part.judged in {output.name for output in onnx.load(file).graph.output}
        assert file.read_bytes() == same.read_bytes()


def test_offsets_are_in_the_graphs_of_the_bundle(tiny, tmp_path):
    table = tiny.table()
    found = centered(tiny.exported, table, tmp_path)
    assert found.network is tiny.exported.network
    for model, file in zip(tiny.models(), found.files, strict=True):
        assert onnx.load(file) == center(model, own_part(table, model).offsets)
    examples = tiny.features.examples()
    for exact, other in zip(tiny.judged(), outputs(found.network, found.files, examples), strict=True):
        np.testing.assert_allclose(other, exact, atol=1e-4)


@pytest.mark.parametrize("kind", ["activations", "weights"])
def test_a_table_of_other_graphs_is_refused(tiny, tmp_path, kind):
    table = tiny.table()
    entries = dict(getattr(table, kind))
    other = replace(table, **{kind: {"/other" + name: entry for name, entry in entries.items()}})
    with pytest.raises(RecipeError) as caught:
        centered(tiny.exported, other, tmp_path)
    assert caught.value.repair
    assert not list(tmp_path.iterdir())
