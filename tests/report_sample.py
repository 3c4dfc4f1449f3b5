"""Records for tests: of a small bundle without a GPU, and of one from a GPU host. Every figure is made up."""

import dataclasses

import numpy as np

from trtasr.results import (
    BenchResult,
    Built,
    Comparison,
    Control,
    Engine,
    Latency,
    LayerRow,
    PairedDifference,
    Record,
    TensorComparison,
    Utterance,
    WerResult,
)
from trtasr.values import Decision, ScaleTable, TensorScale, WeightScale

SPOKEN = "close the red door"
REASONS = {"depthwise": "no INT8 kernel on sm_75"}


def wer(percent, transcript):
    rows = (Utterance("a.wav", 4.2, SPOKEN, transcript, SPOKEN, transcript),)
    return scored(percent, rows)


def scored(percent, rows=(), spaced=True, words=1039):
    """A result of made-up figures; its CER is half its WER."""
    return WerResult(percent, words, 137, 902, percent / 2, 5000, 321, spaced, tuple(rows), "basic-en-v1")


def difference(reference, rate, interval, dataset="", words=1039):
    """An engine's distance to FP32."""
    return PairedDifference(dataset, 60, words, reference, rate, rate - reference, interval, 0.42, 1.35)


def sample():
    """FP32, a T4 plan that was not timed, and a CPU engine."""
    timing = Latency(400.0, 440.0, 460.0, 50, 15.0, 1, 1, "Some CPU")
    fast = dataclasses.replace(timing, p50_ms=80.0, p95_ms=90.0)
    activations = {f"/enc/{i}": TensorScale(1.0 + i, "mse", sqnr_db=30.0 + i) for i in range(20)}
    layers = (
        LayerRow("fc_0", "gemm", ("int8", "int8"), ("fp16",), ("/enc/0/Conv",), 900, True),
        LayerRow("conv_1", "correlation", ("fp16", "fp16"), ("fp16",), ("/enc/1/Conv",), 100, False),
    )
    details = {"sha256": "ab" * 32, "build_seconds": 9.5}
    return Record(
        name="quartznet",
        architecture="QuartzNet15x5",
        family="jasper",
        checkpoint={"file": "quartznet.nemo", "sha256": "cd" * 32, "class": "EncDecCTCModel"},
        recipe={"name": "quartznet", "calibration": {"method": "synthetic", "seed": 7}},
        described={"vocabulary": ["a", "b"], "most_frames": None},
        fp32=("model.fp32.onnx",),
        parity=2e-6,
        built="2026-11-30T02:15:00Z",
        seconds=84.2,
        device="Some CPU",
        versions={"onnxruntime": "1.31.1"},
        results=(
            BenchResult(
                "fp32 (reference)", "fp32", 75_500_000, (timing,), wer(13.19, "close the red door"), "", "fp32"
            ),
            BenchResult(
                "int8 t4-rtx",
                "t4-rtx",
                52_000_000,
                (),
                wer(13.25, "close the door right now"),
                "Q/DQ graph",
                absent="no T4 here",
            ),
            BenchResult(
                "int8 cpu",
                "cpu",
                19_400_000,
                (fast,),
                wer(13.28, "close a red door"),
                differences=(difference(13.19, 13.28, (-0.21, 0.38)),),
            ),
        ),
        tables={
            "synthetic": ScaleTable(
                activations,
                {"enc.0.weight": WeightScale(np.ones(256, np.float32), 0, 41.5, (3, 9))},
                alphas={"enc.0": 0.25, "enc.1": 0.75},
            ),
            "audio": ScaleTable({f"/enc/{i}": TensorScale(1.5 + i, "mse") for i in range(20)}, {}),
        },
        engines=(
            Engine(
                "t4-rtx",
                "int8 t4-rtx",
                (Built("t4-rtx/model.plan", 52_000_000, layers, details),),
                ("model.qdq.onnx",),
                decisions=(
                    Decision("/enc/0/Conv", "Conv", True, "int8"),
                    Decision("/enc/1/Conv", "Conv", False, "depthwise"),
                ),
                reasons=REASONS,
                linted=True,
                subnormal=("/enc/0/Conv",),
            ),
            Engine("cpu", "int8 cpu", (Built("cpu/model.int8.onnx", 19_400_000),), rest="FP32"),
        ),
        comparison=Comparison(
            "fp32",
            "qdq",
            (TensorComparison("logprobs", 24.31, 0.99812, 1.5),),
            0.9912,
            2237,
            "audio",
            "polygraphy run model.qdq.onnx --onnxrt",
            "comparison.json",
        ),
        controls=(Control("synthetic", 13.25, 1.5, 24.3), Control("noise", 61.9, 58.2, 3.4)),
        commands=("trtasr compile quartznet.nemo -o out",),
    )


def large_layers(count=171, kept=("Half", "Half"), tactics=True):
    """As many convolutions, every other one INT8, with a fused pointwise layer behind each."""
    rows = []
    for i in range(count):
        node, int8 = f"/encoder/encoder.{i // 11}/mconv.{i % 11}/conv/Conv", not i % 2 and kept == ("Half", "Half")
        kernel = f"sm75_xmma_fprop_implicit_gemm_{'i8i8' if int8 else 'f16f16'}_nhwc_tn_n_tilesize{i}"
        tactic = kernel if tactics else ""
        rows.append(
            LayerRow(
                f"{node}_myl0_{i}",
                "CaskConvolution",
                ("Int8", "Int8") if int8 else kept,
                kept[:1],
                (node, f"{node}_DequantizeLinear", f"{node}_weight_DequantizeLinear"),
                100_000 + 37 * (i * i % 101),
                int8,
                tactic,
                0.7 / count if tactics else 0.0,
            )
        )
        name = f"__myl_MoveReshReplConcMulMinMaxRounCast_myl0_{i}"
        nodes = tuple(f"/encoder/encoder.{i}/{op}" for op in ("Mul", "Add", "Relu", "QuantizeLinear", "Where", "Cast"))
        rows.append(LayerRow(name, "kgen", kept, kept[:1], nodes, 0, False, "", 0.3 / count if tactics else 0.0))
    return tuple(rows)


def gpu_sample(count=171):
    """INT8, FP16 and FP32 plans timed on a GPU, the CPU engine beside them; layers timed, tactics known."""
    base, shapes = sample(), [(batch, seconds) for batch in (1, 8) for seconds in (2.0, 7.0, 16.7)]

    def timed(milliseconds):
        return tuple(
            Latency(ms, 1.06 * ms, 1.2 * ms, 500, batch * seconds, batch, 0, "Tesla T4")
            for batch, seconds in shapes
            for ms in [milliseconds * (0.8 + 0.04 * batch * seconds)]
        )

    results = (
        base.results[0],
        BenchResult("fp16 t4", "t4-fp16", 38_900_000, timed(3.1), wer(13.19, "close the red door"), "", "fp16"),
        BenchResult("fp32 t4", "t4-fp32", 76_300_000, timed(7.9), wer(13.19, "close the red door"), "", "fp32"),
        BenchResult(
            "int8 t4",
            "t4",
            24_100_000,
            timed(2.2),
            wer(13.27, "close the door right now"),
            differences=(difference(13.19, 13.27, (-0.12, 0.28)),),
        ),
        base.results[2],
    )
    details = {"tensorrt": "10.16.1.11", "gpu": "Tesla T4", "build_seconds": 181.2, "sha256": "0123456789abcdef" * 4}
    names = [layer.onnx_nodes[0] for layer in large_layers(count) if layer.macs]
    engines = (
        Engine(
            "t4",
            "int8 t4",
            (Built("t4/model.plan", 24_100_000, large_layers(count), details),),
            ("model.qdq.onnx",),
            decisions=tuple(
                Decision(name, "Conv", not i % 2, ("int8", "depthwise")[i % 2]) for i, name in enumerate(names)
            ),
            reasons=REASONS,
            linted=True,
            subnormal=tuple(names[:5]),
            overflowing=tuple(names),
        ),
        Engine(
            "cpu",
            "int8 cpu",
            (Built("cpu/model.int8.onnx", 19_400_000, large_layers(count, ("Float", "Float"), False)),),
            ("cpu/model.int8.onnx",),
            rest="FP32",
            decisions=tuple(Decision(name, "Conv", True, "int8") for name in names),
        ),
        *(
            Engine(
                f"t4-{precision}",
                f"{precision} t4",
                (Built(f"t4/{precision}.plan", size, large_layers(count, kept, False), details),),
                precision=precision,
                rest=precision.upper(),
            )
            for precision, size, kept in (
                ("fp16", 38_900_000, ("Half", "Half ")),
                ("fp32", 76_300_000, ("Float", "Float")),
            )
        ),
    )
    activations = {
        f"{name}_output_{i}": TensorScale(1.0 + i % 17, "mse", sqnr_db=28.0 + (i * 7) % 23)
        for name in names
        for i in (0, 1)
    }
    weights = {f"{name}.weight": WeightScale(np.ones(256, np.float32), 0, 38.0 + i % 9) for i, name in enumerate(names)}
    audio = {
        name: TensorScale(scale.amax * (1.1 + 0.01 * i % 0.9), "mse")
        for i, (name, scale) in enumerate(activations.items())
    }
    return dataclasses.replace(
        base,
        results=results,
        engines=engines,
        tables={"synthetic": ScaleTable(activations, weights), "audio": ScaleTable(audio, {})},
    )
