"""What two bundles share, and which key of them differs."""

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tools.same_product import main

SCALES = {"activations": {"features": {"amax": 4.5, "scale": 0.03543307}}, "weights": {}, "settings": {"seed": 0}}


def write_graph(path, value=1.0, external=False):
    weight = numpy_helper.from_array(np.full(600, value, np.float32), "weight")
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [600])
    node = helper.make_node("Identity", ["weight"], ["y"], "copy")
    model = helper.make_model(helper.make_graph([node], "tiny", [], [output], [weight]))
    onnx.save(model, path, save_as_external_data=external, location=f"{path.name}.data")


def write_wer(path, folder, text="one two"):
    utterance = {"audio_filepath": f"{folder}/0.wav", "text": "one too", "pred_text": text}
    path.write_text(json.dumps({"fp32": {"utterances": [utterance], "work_seconds": len(folder)}}))


def write_scales(path, scale=0.03543307):
    path.write_text(json.dumps(SCALES | {"activations": {"features": {"scale": scale, "amax": 4.5}}}, indent=1))


@pytest.fixture
def bundles(tmp_path):
    """Two bundles of one product, made in folders of different names."""
    old, new = tmp_path / "old", tmp_path / "new"
    (old / "t4-rtx").mkdir(parents=True)
    write_graph(old / "model.fp32.onnx")
    (old / "t4-rtx" / "model.plan").write_bytes(b"plan")
    (old / "calibration.cache").write_bytes(b"features: 3d112233")
    (old / "scales.json").write_text(json.dumps(SCALES))
    write_wer(old / "wer.json", "/somewhere")
    shutil.copytree(old, new)
    write_scales(new / "scales.json")
    write_wer(new / "wer.json", "/somewhere/else")
    return old, new


def answer(bundles, capsys, *flags):
    code = main([*map(str, bundles), *flags])
    return code, capsys.readouterr().out.splitlines()


def test_the_same_product_wherever_it_was_made(bundles, capsys):
    code, lines = answer(bundles, capsys)
    assert (code, lines[-1]) == (0, "SAME PRODUCT")
    assert [line.split("  ")[:2] for line in lines[:-1]] == [
        ["calibration.cache", "same"],
        ["model.fp32.onnx", "same"],
        ["scales.json activations", "same"],
        ["scales.json settings", "same"],
        ["scales.json weights", "same"],
        ["t4-rtx/model.plan", "same"],
        ["wer.json fp32", "same"],
    ]


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda folder: write_graph(folder / "model.fp32.onnx", 1.0000001), "model.fp32.onnx  differs"),
        (lambda folder: (folder / "t4-rtx" / "model.plan").write_bytes(b"plans"), "t4-rtx/model.plan  differs"),
        (lambda folder: (folder / "calibration.cache").write_bytes(b""), "calibration.cache  differs"),
        (lambda folder: (folder / "calibration.cache").unlink(), "-> missing"),
        (
            lambda folder: write_scales(folder / "scales.json", 0.03543308),
            "[features][scale] 0.03543307 -> 0.03543308",
        ),
        (lambda folder: write_wer(folder / "wer.json", "/a", "one to"), "[0][0.wav] one two -> one to"),
    ],
    ids=["graph", "plan", "cache", "no cache", "number", "transcript"],
)
def test_a_difference_is_named_and_counted(bundles, capsys, spoil, line):
    spoil(bundles[1])
    code, lines = answer(bundles, capsys)
    assert (code, lines[-1]) == (1, "DIFFERENT: 1 of 7")
    assert [found for found in lines if "differs" in found] == [found for found in lines if line in found]


def test_an_absent_table_differs_in_every_section(bundles, capsys):
    (bundles[1] / "scales.json").unlink()
    assert answer(bundles, capsys)[1][-1] == "DIFFERENT: 3 of 7"


def test_a_file_renamed_on_purpose_is_matched(bundles, capsys):
    (bundles[1] / "model.fp32.onnx").rename(bundles[1] / "whole.onnx")
    assert answer(bundles, capsys)[1][-1] == "DIFFERENT: 2 of 8"
    code, lines = answer(bundles, capsys, "--renamed", "model.fp32.onnx=whole.onnx")
    assert code == 0
    assert any(line.startswith("model.fp32.onnx = whole.onnx  same") for line in lines)


def test_external_values_count_but_not_the_name_of_their_file(bundles, capsys):
    old, new = bundles
    write_graph(old / "model.fp32.onnx", external=True)
    (new / "model.fp32.onnx").unlink()
    write_graph(new / "whole.onnx", external=True)
    flags = ("--renamed", "model.fp32.onnx=whole.onnx")
    assert answer(bundles, capsys, *flags)[0] == 0
    data = new / "whole.onnx.data"
    data.write_bytes(b"\1" + data.read_bytes()[1:])
    assert answer(bundles, capsys, *flags)[1][-1] == "DIFFERENT: 1 of 7"


def test_two_folders_without_graphs_prove_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no bundle"):
        main([str(tmp_path), str(tmp_path)])
