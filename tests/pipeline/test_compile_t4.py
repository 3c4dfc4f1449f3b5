"""Target t4 from checkpoint to report, with a TensorRT and a GPU made of ONNX Runtime and host memory (tests/fakes).

Everything but the kernels is the product's own: the build processes, plans, runner, benchmark, gates and bundle.
"""

import contextlib
import io
import json
import sys
from dataclasses import replace

import onnx
import pytest
from t4_host import compiled, header, read

from trtasr.cli import main
from trtasr.engine import build_tensorrt, driver
from trtasr.engine.builder_probe import require_builder
from trtasr.engine.calibrator import Source, write_source
from trtasr.errors import BuildError, MissingError
from trtasr.pipeline import use as verbs
from trtasr.targets import TARGETS, choose
from trtasr.targets.t4 import T4


@pytest.fixture(scope="module")
def bundle(host):
    """One plain compile that several tests look at."""
    exports = [
        "--exportProfile",
        str(host / "profile.json"),
        "--exportLayerInfo",
        str(host / "layers.json"),
        "--saveEngine",
        str(host / "my.plan"),
    ]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        out = compiled(host, host / "out", *exports)
    (host / "printed.txt").write_text(printed.getvalue())
    return out


def test_int8_beside_fp16_and_fp32_measured_on_the_gpu(host, bundle):
    out, printed = bundle, (host / "printed.txt").read_text()
    assert {p.name for p in (out / "t4").iterdir()} == {"model.plan", "fp16.plan", "fp32.plan", "profile.json"}
    rows = {row["target"]: row for row in read(out, "bench.json")}
    assert list(rows) == ["fp32", "t4-fp16", "t4-fp32", "t4"]
    for target, milliseconds in (("t4", 1.0), ("t4-fp16", 2.0), ("t4-fp32", 6.0)):
        shapes = [(item["batch"], item["audio_seconds"]) for item in rows[target]["latencies"]]
        assert shapes == [(1, 0.5), (2, 1.0)]  # 60 s is outside the profile
        assert {item["p50_ms"] for item in rows[target]["latencies"]} == {milliseconds}
        assert {item["device"] for item in rows[target]["latencies"]} == {"Tesla T4 (fake), CUDA graphs"}
        beside = [item["plain_launches"] for item in rows[target]["latencies"]]
        assert {item["device"] for item in beside} == {"Tesla T4 (fake), plain launches"}
        assert {item["p95_ms"] for item in beside} == {milliseconds}
        assert rows[target]["wer"] is not None
        assert rows[target]["note"] == ""
    assert "int8 t4 against FP16, 2 x 0.5 s: 2.00 x" in printed
    assert "polygraphy run --trt t4/model.plan --model-type engine" in printed
    assert read(out, "comparison.json")["lst"][1][0] == "int8-t4"
    assert "Tesla T4 (fake)" in printed
    assert "PASSED" in printed.splitlines()[-1]
    assert "wer_int8=" in printed.splitlines()[-1]


def test_the_engine_itself_is_scored_not_its_graph(bundle):
    """WER of fp32 t4 equals that of the FP32 graph, and the INT8 plan's is that of the FP16 form of the Q/DQ graph."""
    wer = {target: [u["pred_text"] for u in row["utterances"]] for target, row in read(bundle, "wer.json").items()}
    assert wer["t4-fp32"] == wer["fp32"]
    plan = (bundle / "t4" / "model.plan").read_bytes().split(b"\n", 2)[2]
    model = onnx.load_from_string(plan)
    assert any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    assert {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8} <= {i.data_type for i in model.graph.initializer}


def test_layers_have_precision_tactic_nodes_and_time(bundle):
    layers = read(bundle, "layers.json")
    weighted = [row for row in layers["t4"] if row["macs"]]
    assert len(weighted) == 9
    assert sum(row["int8"] for row in weighted) == 5  # not the 3 depthwise ones, nor the decoder's 29 channels
    assert {row["tactic"] for row in weighted if row["int8"]} == {"fake_i8"}
    assert sum(row["time_share"] for row in layers["t4"]) == pytest.approx(1)
    assert not any(row["int8"] for target in ("t4-fp16", "t4-fp32") for row in layers[target])
    profile = read(bundle, "t4/profile.json")
    assert profile[0] == {"count": 20}
    assert len(profile) == 10


def test_clocks_and_power_are_kept(bundle):
    before, busiest, after = read(bundle, "bundle.json")["gpu"]
    assert before["pstate"] == "P0"
    assert busiest["sm_mhz"] == 1590
    assert after["power_w"] == 60.1
    assert after["throttled"] is False


def test_int8_slower_than_fp16_misses_the_gate(host, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_TRT_MS_INT8", "3")
    out = compiled(host, tmp_path / "out", code=3)
    printed = capsys.readouterr().out
    assert "int8 t4 is 0.67 times as fast as FP16" in printed
    assert "0.5 s: 0.67 x  INT8 IS SLOWER" in printed
    assert printed.splitlines()[-1].startswith("FAILED")
    assert read(out, "bundle.json")["outcome"] == "FAILED"


def test_allow_slower_accepts_it(host, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_TRT_MS_INT8", "3")
    compiled(host, tmp_path / "out", "--allow-slower")
    printed = capsys.readouterr().out
    assert "INT8 IS SLOWER" in printed
    assert printed.splitlines()[-1].startswith("PASSED")


def test_a_layer_without_an_int8_kernel_goes_without(host, bundle, tmp_path, monkeypatch, caplog):
    first = next(d["node"] for d in read(bundle, "scales.json")["decisions"]["t4"] if d["quantized"])
    monkeypatch.setenv("FAKE_TRT_NO_INT8", first)
    out = compiled(host, tmp_path / "out")
    decisions = {d["node"]: d for d in read(out, "scales.json")["decisions"]["t4"]}
    assert decisions[first] == {"node": first, "op": "Conv", "quantized": False, "rule": "fallback"}
    assert sum(d["quantized"] for d in decisions.values()) == 4
    assert any(first in record.getMessage() and "no INT8 kernel" in record.getMessage() for record in caplog.records)


def test_a_host_builds_both_forms_and_keeps_the_one_that_its_builder_makes_less_of(host, bundle, tmp_path, caplog):
    """Here the layers are as many, and chains let two of them write INT8."""
    caplog.set_level("INFO")
    out = compiled(host, tmp_path / "out", "--set", "engine.chains=auto")
    assert {path.name for path in (out / "t4").iterdir()} == {"model.plan", "fp16.plan", "fp32.plan", "profile.json"}
    first, second = read(out, "bundle.json")["engines"]["t4"]["forms"]
    assert [(form["name"], form["chosen"]) for form in (first, second)] == [("chains", True), ("plain", False)]
    assert [form["counts"]["written"] for form in (first, second)] == [2, 0]
    assert first["counts"]["int8"] == second["counts"]["int8"] == 5
    assert first["counts"]["kernels"] == second["counts"]["kernels"] == 9
    assert any("t4: chains, which the builder has made less of" in record.getMessage() for record in caplog.records)
    page = (out / "report.html").read_text()
    assert "chains (this engine): 9 kernels, 5 of them INT8, 2 of these INT8 to INT8" in page
    assert "plain: 9 kernels, 5 of them INT8, 0 of these INT8 to INT8" in page
    chains, plain = (onnx.load(folder / "model.qdq.onnx") for folder in (out, bundle))
    pairs = [sum(node.op_type == "QuantizeLinear" for node in model.graph.node) for model in (chains, plain)]
    assert pairs[0] == pairs[1] + 2
    (only,) = read(bundle, "bundle.json")["engines"]["t4"]["forms"]
    assert only == {**second, "chosen": True}


def test_implicit_quantization_serves_the_scale_table_as_a_cache(host, tmp_path):
    timings = ["--timingCacheFile", str(tmp_path / "mine.cache")]
    out = compiled(host, tmp_path / "out", "--quantization", "implicit", *timings)
    assert header(out, "t4/model.plan")["calibrated"] == "cache"
    assert header(out, "t4/fp16.plan")["calibrated"] == ""
    assert (tmp_path / "mine.cache").read_bytes() == b"timings"
    facts = read(out, "bundle.json")["engines"]["t4"]["parts"][0]
    assert (facts["quantization"], facts["missing_scales"]) == ("implicit", 0)
    weighted = {row["onnx_nodes"][0]: row["int8"] for row in read(out, "layers.json")["t4"] if row["macs"]}
    decided = {d["node"]: d["quantized"] for d in read(out, "scales.json")["decisions"]["t4"]}
    assert weighted == decided  # depthwise ones are pinned to FP16; the cache names the parser's reshapes, too
    assert list(decided.values()).count(True) == 5
    assert list(decided.values()).count(False) == 4


def test_depthwise_convolutions_are_not_pinned_where_the_recipe_wants_them_in_int8(host, tmp_path):
    flags = ["--set", "quantization.fidelity=fast"]  # random weights are easily harmed
    out = compiled(host, tmp_path / "out", "--quantization", "implicit", "--quantize-depthwise", *flags)
    weighted = [row["int8"] for row in read(out, "layers.json")["t4"] if row["macs"]]
    assert weighted.count(True) == 8  # all but the decoder, whose 29 channels are not aligned


def test_a_convolution_without_a_scale_ends_an_implicit_build(host, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build_tensorrt, "write_source", without_the_last_layer)
    compiled(host, tmp_path / "out", "--quantization", "implicit", code=5)
    printed = capsys.readouterr().err
    assert "no scale for /encoder/encoder.2/mconv.0/conv/Conv (" in printed
    assert "--recalibrate" in printed


def without_the_last_layer(path, source):
    """A cache that does not name what the last convolution of the encoder makes."""
    kept = [line for line in source.cache.splitlines() if not line.startswith("/encoder/encoder.2/mconv.0/conv/Conv_")]
    assert len(kept) == len(source.cache.splitlines()) - 1
    write_source(path, Source(source.algorithm, cache="\n".join(kept) + "\n"))


def test_a_mask_without_a_scale_is_told(host, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(build_tensorrt, "write_source", without_masks)
    out = compiled(host, tmp_path / "out", "--quantization", "implicit")
    assert read(out, "bundle.json")["engines"]["t4"]["parts"][0]["missing_scales"] == 2
    assert any("no scale for 2 tensors" in record.getMessage() for record in caplog.records)


def without_masks(path, source):
    """A cache without the scales of masks."""
    kept = [line for line in source.cache.splitlines() if "/Cast" not in line]
    assert len(kept) == len(source.cache.splitlines()) - 2
    write_source(path, Source(source.algorithm, cache="\n".join(kept) + "\n"))


@pytest.mark.parametrize("content", [b"damaged", b"of another driver"])
def test_a_timing_cache_that_does_not_fit_is_replaced(host, tmp_path, content):
    (tmp_path / "t.cache").write_bytes(content)
    compiled(host, tmp_path / "out", "--timingCacheFile", str(tmp_path / "t.cache"))
    assert (tmp_path / "t.cache").read_bytes() == b"timings"


def test_a_timing_cache_that_cannot_be_kept_costs_no_build(host, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    out = compiled(host, tmp_path / "out", "--timingCacheFile", str(tmp_path / "file" / "t.cache"))
    assert (out / "t4" / "model.plan").is_file()
    assert any("timing cache cannot be kept" in record.getMessage() for record in caplog.records)


def test_a_baseline_that_cannot_be_built_costs_no_engine(host, tmp_path, monkeypatch, caplog):
    def refuse(model):
        raise BuildError("no FP16 here", "none")

    fp16, fp32 = T4.baselines
    monkeypatch.setitem(TARGETS, "t4", replace(T4, baselines=(replace(fp16, passes=(refuse,)), fp32)))
    out = compiled(host, tmp_path / "out", code=3)  # kept, but the gate on speed has nothing to compare with
    assert "not compared with FP16" in read(out, "bundle.json")["problems"][0]
    assert {p.name for p in (out / "t4").iterdir()} == {"model.plan", "fp32.plan", "profile.json"}
    assert any("no FP16 baseline: no FP16 here" in record.getMessage() for record in caplog.records)


NARROW = ["engine.max_batch=1", "evaluation.batch=2", "evaluation.gpu_batches=[1]", "evaluation.gpu_seconds=[0.5]"]


@pytest.mark.parametrize(
    ("model", "changes", "words"),
    [
        (
            "tiny.nemo",
            ["engine.opt_seconds=1.0", "engine.max_seconds=1.2"],
            "but the engine takes 0.2 to 1.2 s",
        ),
        ("tiny.nemo", ["evaluation.batch=9"], "the engine takes 1 to 8 utterances"),
        ("tiny.nemo", ["evaluation.gpu_seconds=[60.0]"], "no such shape fits the engine"),
        ("tiny.nemo", ["evaluation.gpu_batches=[]"], "give at least one"),
        ("whisper", ["evaluation.gpu_seconds=[60.0]"], "no such shape fits the engine"),
        ("whisper", NARROW, "the engine takes 1 to 1 utterances"),
    ],
)
def test_what_the_plan_could_not_run_is_refused_before_it_is_built(host, tmp_path, capsys, model, changes, words):
    flags = [part for change in changes for part in ("--set", change)]
    compiled(host, tmp_path / "out", *flags, model=model, code=2)
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def no_builder(monkeypatch):
    """TensorRT gives null in place of a builder, and nobody remembers another answer."""
    monkeypatch.setenv("FAKE_TRT_NO_BUILDER", "1")
    require_builder.cache_clear()
    yield
    require_builder.cache_clear()


def test_a_builder_that_is_null_is_found_before_anything_else(host, tmp_path, no_builder, capsys):
    compiled(host, tmp_path / "out", code=4)
    printed = capsys.readouterr().err
    assert "CUDA initialization failure with error: 35" in printed
    assert "pip install tensorrt-cu12==10.16.1.11" in printed
    assert not (tmp_path / "out").exists()


def test_auto_does_without_a_builder_that_is_null(host, tmp_path, no_builder, caplog):
    assert main(["compile", str(host / "tiny.nemo"), "--target", "auto", "-o", str(tmp_path / "o"), "--dry-run"]) == 0
    assert any("factory function returned nullptr" in record.getMessage() for record in caplog.records)


def test_a_builder_that_is_null_in_the_build_is_no_refused_graph(host, tmp_path, no_builder, monkeypatch, capsys):
    monkeypatch.setattr(choose, "require_builder", lambda: None)
    compiled(host, tmp_path / "out", code=4)
    assert "gives no builder here" in capsys.readouterr().err


def test_a_driver_older_than_tensorrts_cuda_is_found_first(host, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(driver, "tensorrt_cuda", lambda: 13)
    monkeypatch.setattr(driver, "driver_cuda", lambda libcuda: (12, 2))
    compiled(host, tmp_path / "out", code=4)
    printed = capsys.readouterr().err
    assert "the NVIDIA driver runs CUDA up to 12.2, but the TensorRT here was built for CUDA 13" in printed
    assert "580 or newer" in printed


def test_a_batch_of_long_utterances_has_kernels_of_its_own(host, bundle, capsys):
    short, busy = header(bundle, "t4/model.plan")["profiles"]
    assert [short[name][::2] for name in short] == [busy[name][::2] for name in busy]  # one range
    assert [shapes["features"][1] for shapes in (short, busy)] == [[1, 64, 512], [8, 64, 2016]]
    facts = read(bundle, "bundle.json")["engines"]["t4"]["parts"][0]
    assert facts["profile"]["lengths"] == [[1], [1], [8]]
    assert facts["busy_profile"]["lengths"] == [[1], [8], [8]]
    driver = sys.modules["pycuda.driver"]
    for batch, seconds, profiles in ((1, 0.5, {0}), (8, 15.0, {0, 1})):  # WER is measured at batch 1
        driver.state["profiles"] = set()
        assert main(["bench", str(bundle), "--seconds", str(seconds), "--batch", str(batch), "-q"]) == 0
        assert driver.state["profiles"] == profiles
    capsys.readouterr()


def test_kernels_are_timed_eight_times(bundle):
    assert [header(bundle, f"t4/{name}.plan")["averaged"] for name in ("model", "fp16", "fp32")] == [8, 8, 8]


def test_memory_is_not_taken_for_a_missing_kernel(host, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_TRT_NO_MEMORY", "1")
    compiled(host, tmp_path / "out", code=5)
    assert "raise engine.workspace_mb" in capsys.readouterr().err


def test_auto_says_why_a_t4_host_is_none(host, tmp_path, monkeypatch, caplog):
    def missing():
        raise MissingError("pycuda is not installed", "install it")

    monkeypatch.setattr(build_tensorrt, "load_driver", missing)
    assert main(["compile", str(host / "tiny.nemo"), "--target", "auto", "-o", str(tmp_path / "o"), "--dry-run"]) == 0
    assert any("pycuda is not installed" in record.getMessage() for record in caplog.records)


def test_layer_times_need_a_t4_engine(host, tmp_path, capsys):
    compiled(host, tmp_path / "out", "--target", "cpu", "--exportProfile", str(tmp_path / "p.json"), code=2)
    assert "not of cpu" in capsys.readouterr().err


def test_implicit_quantization_feeds_the_synthetic_batches_at_the_opt_shape(host, tmp_path):
    out = compiled(
        host,
        tmp_path / "out",
        "--quantization",
        "implicit",
        "--set",
        "engine.calibrator=minmax",
        "--set",
        "engine.opt_batch=3",
    )
    assert header(out, "t4/model.plan")["calibrated"] == "2 batches"  # 8 utterances: 2 whole batches of 3, 2 left out


def test_verbs_run_the_plan_on_the_gpu(host, bundle, tmp_path, monkeypatch, capsys):
    manifest = str(host / "manifest.json")
    assert main(["bench", str(bundle), "--manifest", manifest, "--seconds", "0.5", "--batch", "2", "-q"]) == 0
    printed = capsys.readouterr().out
    assert "int8 t4: 2 x 0.5 s of audio, batch 2 (Tesla T4 (fake), CUDA graphs): p50 1.0" in printed
    assert "int8 t4: 2 x 0.5 s of audio, batch 2 (Tesla T4 (fake), plain launches): p50 1.0" in printed
    assert "int8 t4 against FP32, 2 x 0.5 s: 6.00 x" in printed
    assert main(["compare", str(bundle), "--manifest", manifest, "-o", str(tmp_path / "cmp"), "-q"]) == 0
    assert "polygraphy run --trt" in capsys.readouterr().out
    assert main(["compare", str(bundle), "--manifest", manifest, "--layers", "--json", "-q"]) == 0
    layers = json.loads(capsys.readouterr().out)
    assert layers["candidate"] == "t4"
    assert len(layers["sqnr_db"]) == 9
    assert all(20 < value < 90 for value in layers["sqnr_db"].values())  # FP16 arithmetic everywhere: never exact
    assert main(["transcribe", str(bundle), str(host / "0.wav"), "-q"]) == 0
    spoken = capsys.readouterr().out.strip()
    assert spoken in {u["pred_text"] for u in read(bundle, "wer.json")["t4"]["utterances"]}
    monkeypatch.setenv("FAKE_TRT_MS_INT8", "2.5")
    flags = ["--manifest", manifest, "--seconds", "0.5", "-q"]
    assert main(["bench", str(bundle), *flags]) == 3
    assert main(["bench", str(bundle), *flags, "--allow-slower"]) == 0


def test_without_the_gpu_the_qdq_graph_stands_in(bundle, host, monkeypatch, capsys):
    monkeypatch.setattr(verbs, "usable_gpu", lambda: "")
    assert main(["bench", str(bundle), "--manifest", str(host / "manifest.json"), "--seconds", "0.5", "--json"]) == 0
    rows = {row["target"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == ["fp32", "t4"]
    assert rows["t4"]["note"] == "Q/DQ graph, ONNX Runtime"
    assert rows["t4"]["latencies"] == []


def test_timings_are_kept_per_gpu_and_version(host, bundle):
    assert [p.name for p in (host / "cache" / "trtasr").iterdir()] == ["timing-Tesla-T4-fake--10.16.1.11.cache"]


def test_trtexec_exports(host, bundle):
    assert (host / "my.plan").read_bytes() == (bundle / "t4" / "model.plan").read_bytes()
    assert json.loads((host / "profile.json").read_text())[0] == {"count": 20}
    assert len(json.loads((host / "layers.json").read_text())["Layers"]) == 9


def test_nothing_is_left_on_the_gpu(bundle):
    driver = sys.modules["pycuda.driver"]
    assert driver.state["allocated"] == 0
    assert driver.state["stack"] == 0
    assert driver.libcuda.captures > 0
    assert not driver.libcuda.graphs


def test_encoder_and_decoder_plans_of_a_whisper_run_with_their_cache_on_the_gpu(host, tmp_path):
    few = "--set", "calibration.batches=1", "--set", "calibration.batch_size=2"
    out = compiled(host, tmp_path / "out", *few, "--allow-slower", model="whisper")
    names = {f"{half}.{kind}" for half in ("encoder", "decoder") for kind in ("plan", "fp16.plan", "fp32.plan")}
    assert {path.name for path in (out / "t4").iterdir()} == names
    rows = {row["target"]: row for row in read(out, "bench.json")}
    assert list(rows) == ["fp32", "t4-fp16", "t4-fp32", "t4"]
    for target in ("t4", "t4-fp16", "t4-fp32"):
        shapes = [(item["batch"], item["audio_seconds"]) for item in rows[target]["latencies"]]
        assert shapes == [(1, 0.5), (2, 1.0)]  # 60 s is more than it hears
        assert all(0 < item["encoder_ms"] < item["p50_ms"] for item in rows[target]["latencies"])
        assert rows[target]["wer"] is not None
        assert rows[target]["note"] == ""
