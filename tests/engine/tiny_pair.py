"""A tiny encoder and decoder with the inputs and outputs of real ones, in few nodes.

Two layers of two heads of two; the decoder's next token depends on all tokens before, on the cross keys and values, on
the positions and on the bias.
"""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

ROWS, LAYERS, HEADS, WIDTH, VOCABULARY = 3, 2, 2, 2, 11
FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
PARTS = [f"{part}.{layer}" for layer in range(LAYERS) for part in ("key", "value")]


class Sketch:
    """Nodes and constants of a graph in the making."""

    def __init__(self, seed):
        self.nodes, self.constants, self.random = [], [], np.random.default_rng(seed)

    def weight(self, *shape):
        return self.constant(self.random.normal(size=shape).astype(np.float32))

    def constant(self, value):
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, kind, *inputs, name="", **attributes):
        name = name or f"tensor{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=f"{kind}{len(self.nodes)}", **attributes))
        return name

    def split(self, x, size):
        """[B, T, size] -> [B, heads, T, width]."""
        projected = self.add("MatMul", x, self.weight(size, HEADS * WIDTH))
        cut = self.add("Reshape", projected, self.constant(np.array([0, 0, HEADS, WIDTH])))
        return self.add("Transpose", cut, perm=[0, 2, 1, 3])


def model(sketch, inputs, outputs):
    values = [[helper.make_tensor_value_info(*value) for value in side] for side in (inputs, outputs)]
    graph = helper.make_graph(sketch.nodes, "tiny", *values, sketch.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def cache(kind, name, length):
    return [(f"{name}_{part}", kind, ["B", HEADS, length, WIDTH]) for part in PARTS]


def encoder(kind=FLOAT):
    """Every second frame is a position; keys and values of the given type."""
    sketch = Sketch(1)
    ends = [sketch.constant(np.array([value])) for value in (0, 2**31, 2, 2)]
    encoded = sketch.add("Transpose", sketch.add("Slice", "features", *ends), perm=[0, 2, 1], name="encoded")
    more = sketch.add("Add", "lengths", sketch.constant(np.array(1)))
    sketch.add("Div", more, sketch.constant(np.array(2)), name="positions")
    for part in PARTS:
        sketch.add("Cast", sketch.split(encoded, ROWS), to=kind, name=f"cross_{part}")
    return model(
        sketch,
        [("features", FLOAT, ["B", ROWS, "T"]), ("lengths", INT, ["B"])],
        [("encoded", FLOAT, ["B", "S", ROWS]), ("positions", INT, ["B"]), *cache(kind, "cross", "S")],
    )


def decoder(kind=FLOAT):
    """Mean products of keys and values in place of attention."""
    sketch = Sketch(8)
    size = HEADS * WIDTH
    hidden = embedded = sketch.add("Gather", sketch.weight(VOCABULARY, size), "tokens")
    for part in PARTS:
        own = sketch.add("Cast", sketch.split(embedded, size), to=kind)
        sketch.add("Concat", f"past_{part}", own, axis=2, name=f"present_{part}")
    for layer in range(LAYERS):
        for name in ("present", "cross"):
            halves = [sketch.add("Cast", f"{name}_{part}.{layer}", to=FLOAT) for part in ("key", "value")]
            mean = sketch.add("ReduceMean", sketch.add("Mul", *halves), axes=[2], keepdims=0)
            row = sketch.add("Reshape", mean, sketch.constant(np.array([0, 1, size])))
            hidden = sketch.add("Add", hidden, sketch.add("MatMul", row, sketch.weight(size, size)))
    tenth = sketch.add("Mul", sketch.add("Cast", "positions", to=FLOAT), sketch.constant(np.float32(0.1)))
    places = sketch.add("Unsqueeze", tenth, sketch.constant(np.array([1, 2])))
    logits = sketch.add("MatMul", sketch.add("Add", hidden, places), sketch.weight(size, VOCABULARY), name="logits")
    last = sketch.add("Add", sketch.add("Gather", logits, sketch.constant(np.array(-1)), axis=1), "token_bias")
    sketch.add("ArgMax", last, axis=1, keepdims=0, name="next_tokens")
    chosen = sketch.add("LogSoftmax", last, axis=1)
    sketch.add("ReduceMax", chosen, axes=[1], keepdims=0, name="next_log_probs")
    return model(
        sketch,
        [
            ("tokens", INT, ["B", "L"]),
            ("positions", INT, ["B"]),
            ("token_bias", FLOAT, [VOCABULARY]),
            *cache(kind, "cross", "S"),
            *cache(kind, "past", "P"),
        ],
        [
            ("logits", FLOAT, ["B", "L", VOCABULARY]),
            ("next_tokens", INT, ["B"]),
            ("next_log_probs", FLOAT, ["B"]),
            *cache(kind, "present", "N"),
        ],
    )
