"""What tests of the integer graph share: sessions that stay open, its twin with Q/DQ nodes, log-probabilities."""

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from trtasr.graph.check import DISABLED_OPTIMIZERS, check_model
from trtasr.graph.integer import LOGITS_SCALE
from trtasr.targets.integer import INTEGER
from trtasr.targets.place import place

HEADER = '<ir_version: 9, opset_import: ["" : 20, "trtasr" : 1]>'
LONGEST = 1000  # frames, in proofs
QUANTIZE = "[quantize] q = QuantizeLinear(features, s, z)"


def parsed(inputs, output, body, weights=None, functions=()):
    """A graph from ONNX's text form."""
    model = onnx.parser.parse_model(f"{HEADER} tiny ({inputs}) => ({output}) {{ {body} }}")
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()]
    model.graph.initializer.extend(stored)
    model.functions.extend(functions)
    return model


def model_of(body, inputs="float[B,4,T] features", output="uint8[B,3,U] y", functions="", **weights):
    """A graph from text, `s` 1.0 and `z` 128 beside the weights given."""
    made = onnx.parser.parse_model(f"{HEADER} integers ({inputs}) => ({output}) {{ {body} }} {functions}")
    values = {"s": np.float32(1), "z": np.uint8(128), **weights}
    made.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in values.items())
    check_model(made)
    return made


def lines(*texts):
    """A graph from features through codes `q` to `y`, with `seven` and `one`."""
    return model_of(" ".join([QUANTIZE, *texts]), output="int64[B,4,T] y", seven=np.int64(7), one=np.float32(1))


def opened(model):
    """A function from feeds to outputs: one session for many runs."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=DISABLED_OPTIMIZERS
    )
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True))


def twin_of(fp32, table):
    """The graph with Q/DQ nodes in front of the same layers."""
    return place(fp32, table, INTEGER, []).model


def with_log_probs(model, outputs):
    """Outputs of the integer graph with ``log_probs``, float64, in place of logits."""
    scale = float({item.key: item.value for item in model.metadata_props}[LOGITS_SCALE])
    logits = outputs["logits"] * scale
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return {"log_probs": log_probs, "output_lengths": outputs["output_lengths"]}


def lengths_batch(lengths, mel, seed=1):
    """Normal features, zero beyond each length."""
    lengths = np.array(lengths)
    features = np.random.default_rng(seed).normal(size=(len(lengths), mel, lengths.max())).astype(np.float32)
    return {"features": features * (np.arange(lengths.max()) < lengths[:, None, None]), "lengths": lengths}
