"""The plan without masks, from checkpoint to transcript, on a T4 host made of fakes (tests/fakes)."""

import json
import sys

import onnx
import pytest
from t4_host import compiled, header, read

from trtasr.cli import main
from trtasr.errors import BuildError
from trtasr.targets import choose


@pytest.fixture(scope="module")
def bundle(host):
    """A compile without such a plan."""
    return compiled(host, host / "out")


@pytest.fixture(scope="module")
def unmasked(host):
    """A compile with a plan without masks beside every plan."""
    saved = ["--saveEngine", str(host / "both.plan")]
    return compiled(host, host / "unmasked", "--set", "engine.unmasked_plan=true", *saved)


def ran(*command):
    """What ran: the most utterances that the plan takes, and the shape of its features."""
    state = sys.modules["pycuda.driver"].state
    state["ran"] = set()
    assert main([*command, "-q"]) == 0
    return state["ran"]


def products(out, name):
    """Number of products in the graph of a plan."""
    model = onnx.load_from_string((out / "t4" / name).read_bytes().split(b"\n", 2)[2])
    return sum(node.op_type == "Mul" for node in model.graph.node)


def test_every_plan_has_one_without_masks_beside_it(host, unmasked):
    plans = ("model", "fp16", "fp32")
    names = {f"{plan}{kind}.plan" for plan in plans for kind in ("", ".unmasked")}
    assert {path.name for path in (unmasked / "t4").iterdir()} == names | {"profile.json"}
    for plan in plans:
        assert products(unmasked, f"{plan}.plan") > products(unmasked, f"{plan}.unmasked.plan") == 0
        (profile,) = header(unmasked, f"t4/{plan}.unmasked.plan")["profiles"]
        assert profile["features"] == [[1, 64, 20], [1, 64, 512], [1, 64, 2016]]
    (part,) = read(unmasked, "bundle.json")["engines"]["t4"]["parts"]
    second = unmasked / part["unmasked"]["path"]
    assert second.name == "model.unmasked.plan"
    assert (second.stat().st_size, part["unmasked"]["busy_profile"]) == (part["unmasked"]["size_bytes"], {})
    assert "t4/model.unmasked.plan" in read(unmasked, "bundle.json")["files"]
    assert "t4/model.unmasked.plan" in (unmasked / "report.html").read_text()
    for name, saved in (("model.plan", "both.plan"), ("model.unmasked.plan", "both.unmasked.plan")):
        assert (unmasked / "t4" / name).read_bytes() == (host / saved).read_bytes()


def test_an_utterance_alone_runs_without_masks_and_a_batch_in_buckets(unmasked, capsys):
    found = ran("bench", str(unmasked), "--seconds", "0.5", "--batch", "1")
    assert (1, (1, 64, 50)) in found  # as long as it is
    assert {largest for largest, _ in found} == {1}  # WER is measured one by one, too
    found = ran("bench", str(unmasked), "--seconds", "0.5", "--batch", "2")
    assert {shape for largest, shape in found if largest == 8} == {(2, 64, 64)}
    capsys.readouterr()


def test_without_such_a_plan_an_utterance_alone_runs_in_buckets(bundle, capsys):
    found = ran("bench", str(bundle), "--seconds", "0.5", "--batch", "1")
    assert {largest for largest, _ in found} == {8}
    assert (8, (1, 64, 64)) in found
    assert all(frames % 64 == 0 for _, (_, _, frames) in found)
    capsys.readouterr()


def test_both_plans_give_the_same_text(bundle, unmasked):
    texts = [
        {target: [u["pred_text"] for u in row["utterances"]] for target, row in read(out, "wer.json").items()}
        for out in (bundle, unmasked)
    ]
    assert texts[0] == texts[1]


def test_the_plan_that_utterances_run_in_is_compared_inspected_and_transcribes(host, unmasked, tmp_path, capsys):
    assert "t4/model.unmasked.plan" in read(unmasked, "bundle.json")["comparison"]["command"]
    manifest = str(host / "manifest.json")
    found = ran("compare", str(unmasked), "--manifest", manifest, "-o", str(tmp_path / "compared"))
    assert {largest for largest, _ in found} == {1}
    assert "model.unmasked.plan --model-type engine" in capsys.readouterr().out
    assert main(["inspect", str(unmasked), "--target", "t4-unmasked", "--json", "-q"]) == 0
    (rows,) = json.loads(capsys.readouterr().out).values()
    assert sum(row["int8"] for row in rows) == 5
    assert list(read(unmasked, "layers.json")) == [
        f"{target}{kind}" for target in ("t4", "t4-fp16", "t4-fp32") for kind in ("", "-unmasked")
    ]
    assert {largest for largest, _ in ran("transcribe", str(unmasked), str(host / "0.wav"))} == {1}


def test_a_plan_without_masks_that_cannot_be_built_costs_no_engine(host, tmp_path, monkeypatch, caplog):
    def refuse(model):
        raise BuildError("no such graph here", "none")

    monkeypatch.setattr(choose, "without_masks", refuse)
    out = compiled(host, tmp_path / "out", "--set", "engine.unmasked_plan=true")
    assert {path.name for path in (out / "t4").iterdir()} == {"model.plan", "fp16.plan", "fp32.plan", "profile.json"}
    assert any("no plan without masks (t4/model.unmasked.plan)" in record.getMessage() for record in caplog.records)
    assert "unmasked" not in read(out, "bundle.json")["engines"]["t4"]["parts"][0]
