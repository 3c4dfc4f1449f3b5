"""Bundles that no compile writes, and the network that a bundle says it holds."""

from dataclasses import asdict, replace

import pytest
from sidecar import description
from whisper_pair import DESCRIBED, FRONTEND, GENERATION, TOKENS

from trtasr.audio.frontend import frontend_json
from trtasr.bundle import seal, staged
from trtasr.errors import AudioError, BundleError
from trtasr.pipeline import opened as opened_bundles
from trtasr.pipeline.opened import open_engine
from trtasr.targets import place_named

PAIR = {
    "family": "whisper",
    "frontend": frontend_json(FRONTEND),
    "vocabulary": list(TOKENS.vocabulary),
    "generation": asdict(GENERATION),
    "most_frames": 80,
}


def bundle(out, *files, **changes):
    """A bundle of files that are no graphs."""
    with staged(out) as folder:
        for name in files:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"x")
        seal(folder, description(*files, **changes))
    return out


@pytest.mark.parametrize("generation", [GENERATION, replace(GENERATION, no_speech=3, languages=(41,))])
def test_the_network_comes_back_from_a_bundle(tmp_path, generation):
    changes = PAIR | {"generation": asdict(generation)}
    opened = open_engine(bundle(tmp_path / "out", "encoder.onnx", "decoder.onnx", **changes))
    found, wanted = opened.network.described, replace(DESCRIBED, generation=generation)
    assert found.tokenizer.vocabulary == wanted.tokenizer.vocabulary
    assert replace(found, tokenizer=TOKENS) == wanted
    assert [part.name for part in opened.network.parts] == ["encoder", "decoder"]


def test_a_model_without_an_end_has_no_longest_length(tmp_path):
    opened = open_engine(bundle(tmp_path / "out", "model.onnx"))
    assert opened.network.described.most_frames == float("inf")
    opened.limits([tmp_path / "model.plan"])(tmp_path / "long.wav", 1e6)


def test_audio_that_is_longer_than_the_model_hears_is_refused_whatever_runs(tmp_path):
    opened = open_engine(bundle(tmp_path / "out", "encoder.onnx", "decoder.onnx", **PAIR))
    for name in ("encoder.plan", "encoder.onnx"):
        with pytest.raises(AudioError, match=r"long.wav: 2.100 s"):
            opened.limits([tmp_path / name])(tmp_path / "long.wav", 2.1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"family": "gpt"}, "family 'gpt'"),
        ({"family": "conformer"}, "generation does not fit conformer"),
        ({"generation": None}, "generation does not fit whisper"),
        ({"most_frames": None}, "most_frames does not fit whisper"),
        (
            {"graphs": {"fp32": ["encoder.onnx", "decoder.onnx"], "cpu": ["decoder.onnx", "encoder.onnx"]}},
            "decoder.onnx, enc",
        ),
        ({"generation": asdict(replace(GENERATION, end=(99,)))}, "generation: "),
    ],
)
def test_a_network_that_no_compile_writes(tmp_path, changes, words):
    out = bundle(tmp_path / "out", "encoder.onnx", "decoder.onnx", **(PAIR | changes))
    with pytest.raises(BundleError, match=f"bundle.json: {words}"):
        open_engine(out)


@pytest.mark.parametrize(
    ("graphs", "parts", "words"),
    [
        (["encoder.onnx", "decoder.plan"], ["encoder.onnx", "decoder.onnx"], "decoder.plan: a plan"),
        (["encoder.onnx", "decoder.onnx"], ["encoder.onnx", "decoder.plan"], "engine cpu has plans and graphs"),
        (["encoder.onnx", "decoder.onnx"], ["encoder.plan", "decoder.plan"], "engine cpu is a plan"),
    ],
)
def test_plans_do_not_stand_for_graphs(tmp_path, graphs, parts, words):
    """A plan's weights are in it: what is named like one is not searched for the files of others."""
    engine = {"label": "int8 cpu", "precision": "int8", "parts": [{"path": path, "size_bytes": 1} for path in parts]}
    files = sorted({*graphs, *parts})
    changes = PAIR | {"graphs": {"fp32": graphs, "cpu": graphs}, "engines": {"cpu": engine}}
    with pytest.raises(BundleError, match=words):
        open_engine(bundle(tmp_path / "out", *files, **changes))


def with_second(path, *parts):
    """Changes of a description: an engine of these parts, the first of which has a plan without masks."""
    first, *others = [{"path": part, "size_bytes": 1} for part in parts]
    first["unmasked"] = {"path": path, "size_bytes": 2}
    return {"engines": {"t4": {"label": "int8 t4", "precision": "int8", "parts": [first, *others]}}}


def test_a_plan_without_masks_is_one_of_the_files_that_are_run(tmp_path):
    second, graphs = "t4/model.unmasked.plan", {"graphs": {"fp32": ["model.onnx"], "t4": ["model.onnx"]}}
    changes = graphs | with_second(second, "t4/model.plan")
    out = bundle(tmp_path / "out", "model.onnx", "t4/model.plan", second, **changes)
    opened = open_engine(out)
    files = opened.bundle.sidecar.engines["t4"].files
    assert opened.files(files) == (out / "t4/model.plan", out / second)
    engine = opened.engine("t4", "Tesla T4")
    assert (engine.measured, engine.size_bytes) == (("t4/model.plan", second), 3)
    (out / second).write_bytes(b"another one")
    with pytest.raises(BundleError, match=r"model\.unmasked\.plan: sha256 .* does not match"):
        opened.files(files)


@pytest.mark.parametrize(
    ("second", "parts", "words"),
    [
        ("/lib/x.plan", ["a.plan"], "is to be run, but is none of its files"),
        ("b.onnx", ["a.plan"], "engine t4 has plans and graphs"),
        ("b.onnx", ["a.onnx"], "b.onnx: only the one plan of a network has another"),
        ("b.plan", ["a.plan", "c.plan"], "graphs and engines of 1, 2 parts"),
    ],
)
def test_a_second_plan_that_no_compile_writes(tmp_path, second, parts, words):
    graphs = {"graphs": {"fp32": ["model.onnx"], "t4": ["model.onnx"]}}
    names = ["model.onnx", *parts, *[second] * (not second.startswith("/"))]
    with pytest.raises(BundleError, match=words):
        open_engine(bundle(tmp_path / "out", *names, **graphs, **with_second(second, *parts)))


def test_a_network_without_the_graph_of_a_part(tmp_path):
    with pytest.raises(BundleError, match="decoder"):
        open_engine(bundle(tmp_path / "out", "encoder.onnx", **PAIR))


def test_only_what_may_run_on_a_gpu_here_asks_for_one(monkeypatch):
    """To look for a GPU starts TensorRT and the driver."""
    asked = []
    monkeypatch.setattr(opened_bundles, "usable_gpu", lambda: asked.append(1) or "Tesla T4")
    assert opened_bundles.gpu_for(map(place_named, ["t4-rtx", "rtx-sm86", "cpu", "integer"])) == ""
    assert asked == []
    assert opened_bundles.gpu_for(map(place_named, ["cpu", "t4"])) == "Tesla T4"
    assert asked == [1]
