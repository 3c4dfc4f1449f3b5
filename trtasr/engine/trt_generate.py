"""An encoder and a decoder as two TensorRT plans on one stream; keys and values stay on the GPU.

The decoder reads what the encoder wrote, at the same addresses. Its own cache lies in two halves: a step reads the past
from one and writes the present into the other, and the next step has them the other way round. Token numbers do the
same, so that a step copies two numbers per utterance to the host and usually nothing to the GPU.

There are no CUDA graphs here: a graph is captured for one shape, and every step has a longer past than the one before.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np

from trtasr.engine.build_tensorrt import load_tensorrt
from trtasr.engine.device import Arena, Shape, primary_context
from trtasr.engine.plan import COMPILE, Plan
from trtasr.errors import BuildError
from trtasr.values import Array, FloatArray, IntArray

NEEDED = (
    ({"features", "lengths"}, {"positions"}),
    ({"tokens", "positions", "token_bias"}, {"logits", "next_tokens", "next_log_probs"}),
)


@contextmanager
def open_pair(encoder_plan: Path, decoder_plan: Path, biases: Mapping[str, FloatArray]) -> Iterator["TrtDecoding"]:
    """Both plans ready to run on this machine's GPU, inside the block.

    Args:
        encoder_plan: engine file.
        decoder_plan: engine file.
        biases: name -> float32 [V] added to the last logits (`trtasr.text.generate.biases`).

    Raises:
        MissingError: no TensorRT, pycuda, driver or GPU. BuildError: a plan cannot be loaded here, the two do not fit
        each other, or there is too little GPU memory.
    """
    trt = load_tensorrt()
    with primary_context() as cuda, ExitStack() as stack:
        runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        encoder = stack.enter_context(closing(Plan(encoder_plan, trt, runtime)))
        decoder = stack.enter_context(closing(Plan(decoder_plan, trt, runtime)))
        arena = stack.enter_context(closing(Arena(cuda)))
        yield TrtDecoding(encoder, decoder, arena, biases)


class TrtDecoding:
    """What `trtasr.text.generate.greedy` drives: the encoder once, then the decoder token by token.

    Args:
        encoder: ``features``, ``lengths`` -> ``positions``, the cross keys and values, and what nobody reads.
        decoder: ``tokens``, ``token_bias``, the encoder's outputs and the past -> ``logits``, ``next_tokens``,
            ``next_log_probs`` and the present. Keys and values may be FP16 or FP32.
        arena: memory; whoever made it closes it.
        biases: name -> float32 [V]; they are uploaded once.

    Raises:
        BuildError: the plans do not fit each other or the biases, or no GPU memory is left.
    """

    def __init__(self, encoder: Plan, decoder: Plan, arena: Arena, biases: Mapping[str, FloatArray]) -> None:
        check_pair(encoder, decoder)
        self._encoder, self._decoder, self._arena = encoder, decoder, arena
        self._stream = arena.cuda.Stream()
        self._shared = [name for name in decoder.inputs if name in encoder.outputs]
        self._past = [name for name in decoder.inputs if name.startswith("past_")]
        decoder.set_shape("token_bias", (self._vocabulary,))
        self._biases = {name: self._upload_bias(name, bias) for name, bias in biases.items()}
        self._stream.synchronize()
        self._halves: list[dict[str, int]] = []  # output -> address, in either half
        self._batch = self._length = self._turn = self._first = 0
        self._last: IntArray | None = None

    def begin(self, features: FloatArray, lengths: IntArray) -> IntArray:
        """Encode features [B, rows, T] of valid lengths [B]; returns the valid encoder positions [B].

        Raises:
            BuildError: a shape outside a plan's optimization profile, no GPU memory, or a failed launch.
        """
        self._batch = self._first = 0  # should it fail, there is nothing to step on
        given: dict[str, Array] = {"features": features, "lengths": lengths}
        self._encoder.choose(features.shape, self._stream.handle)
        for name, array in given.items():
            self._encoder.set_shape(name, array.shape)
        shapes = {name: self._encoder.shape(name) for name in self._encoder.outputs}
        for name in self._shared:
            self._decoder.set_shape(name, shapes[name])
        places = {name: self._arena.reserve(name, shapes[name], dtype) for name, dtype in self._encoder.outputs.items()}
        self._halves = [self._reserve_half(half, len(features)) for half in (0, 1)]
        self._decoder.bind({name: places[name] for name in self._shared})
        types, stream = self._encoder.inputs, self._stream
        uploads = {name: self._arena.upload(name, array, types[name], stream) for name, array in given.items()}
        self._encoder.bind({**places, **uploads})
        self._encoder.enqueue(self._stream.handle)
        [positions] = self._fetch(self._encoder, places, ["positions"], len(features))
        self._batch, self._length, self._turn, self._last = len(features), 0, 0, None
        return positions.astype(np.int64)

    def step(self, tokens: IntArray, bias: str) -> tuple[IntArray, FloatArray]:
        """Decode tokens [B, L] behind those before; returns the next tokens [B] and their log-probabilities [B].

        Raises:
            BuildError: more tokens than the plan's optimization profile has room for, or a failed launch.
        """
        assert self._batch == len(tokens), "no such batch has been begun"
        self._decoder.set_shape("tokens", tokens.shape)
        for name in self._past:
            self._decoder.set_shape(name, self._past_shape(name, self._batch, self._length))
        before, after = self._halves[self._turn], self._halves[1 - self._turn]
        written = {**after, "logits": self._logits(start=self._length == 0)}
        past = {name: before[present(name)] for name in self._past}
        given = {"tokens": self._place_tokens(tokens), "token_bias": self._biases[bias]}
        self._decoder.bind({**written, **past, **given})
        self._decoder.enqueue(self._stream.handle)
        ids, log_probs = self._fetch(self._decoder, written, ["next_tokens", "next_log_probs"], self._batch)
        self._first = self._first or tokens.shape[1]
        self._length += tokens.shape[1]
        self._turn, self._last = 1 - self._turn, ids.astype(np.int64)
        return self._last.copy(), log_probs.astype(np.float32)

    def start_probability(self, token: int) -> FloatArray:
        """Softmax probability [B] of a token behind the first token since `begin`; copies one row of logits each."""
        assert self._first, "no step has been made"
        dtype = self._decoder.outputs["logits"]
        rows = self._arena.host("logits", (self._batch, self._vocabulary), dtype)
        stride = self._first * self._vocabulary * dtype.itemsize
        for index, row in enumerate(rows):
            self._arena.cuda.memcpy_dtoh_async(row, self._logits(start=True) + index * stride, self._stream)
        self._stream.synchronize()
        exponents = np.exp(rows.astype(np.float64) - rows.max(axis=1, keepdims=True))
        return np.asarray(exponents[:, token] / exponents.sum(axis=1), np.float32)

    @property
    def _vocabulary(self) -> int:
        return self._decoder.limits["token_bias"][1][0]

    def _past_shape(self, name: str, batch: int, length: int) -> Shape:
        _, heads, _, width = self._decoder.limits[name][1]
        return batch, heads, length, width

    def _reserve_half(self, half: int, batch: int) -> dict[str, int]:
        """Places for what a step writes and the next one reads, at the largest length of the plan's profile."""
        longest = self._decoder.limits["tokens"][1][1]
        shapes: dict[str, Shape] = {"next_tokens": (batch,), "next_log_probs": (batch,)}
        for name in self._past:
            shapes[present(name)] = self._past_shape(name, batch, self._decoder.limits[name][1][2] + longest)
        types = self._decoder.outputs
        self._arena.reserve(f"logits/{half}", (batch, longest, self._vocabulary), types["logits"])
        return {name: self._arena.reserve(f"{name}/{half}", shape, types[name]) for name, shape in shapes.items()}

    def _logits(self, start: bool) -> int:
        """Where the first step's logits lie, for `start_probability`, or those of all others, which nobody reads."""
        longest = self._decoder.limits["tokens"][1][1]
        shape = self._batch, longest, self._vocabulary
        return self._arena.reserve(f"logits/{0 if start else 1}", shape, self._decoder.outputs["logits"])

    def _place_tokens(self, tokens: IntArray) -> int:
        """Where the tokens lie on the GPU: where the last step left them, if these are the ones."""
        if self._last is not None and np.array_equal(tokens, self._last[:, None]):
            return self._halves[self._turn]["next_tokens"]
        return self._arena.upload("tokens", tokens, self._decoder.inputs["tokens"], self._stream)

    def _upload_bias(self, name: str, bias: FloatArray) -> int:
        if bias.shape != (self._vocabulary,):
            raise BuildError(
                f"{self._decoder.path}: bias {name} has {bias.size} tokens, the plan {self._vocabulary}", COMPILE
            )
        return self._arena.upload(f"token_bias/{name}", bias, self._decoder.inputs["token_bias"], self._stream)

    def _fetch(self, plan: Plan, places: Mapping[str, int], names: Sequence[str], batch: int) -> list[Array]:
        """Outputs [B] on the host, when everything on the stream is done; they stay until the next fetch."""
        found = [self._arena.host(name, (batch,), plan.outputs[name]) for name in names]
        for name, host in zip(names, found, strict=True):
            self._arena.cuda.memcpy_dtoh_async(host, places[name], self._stream)
        self._stream.synchronize()
        return found


def check_pair(encoder: Plan, decoder: Plan) -> None:
    """Refuse plans of which one lacks what the other needs, or has it in another type.

    Raises:
        BuildError: naming the tensor.
    """
    for plan, (inputs, outputs) in zip((encoder, decoder), NEEDED, strict=True):
        missing = (inputs - set(plan.inputs)) | (outputs - set(plan.outputs))
        if missing:
            raise BuildError(f"{plan.path}: the plan has no {', '.join(sorted(missing))}", COMPILE)
    given = {**encoder.outputs, **decoder.outputs, "token_bias": decoder.inputs["token_bias"]}
    for name, dtype in decoder.inputs.items():
        source = "next_tokens" if name == "tokens" else present(name)
        if given.get(source) != dtype:
            raise BuildError(f"{decoder.path}: input {name} is {dtype}, but {source} is {given.get(source)}", COMPILE)


def present(name: str) -> str:
    """The output that a cache input is the past of; other names stay as they are."""
    return name.replace("past_", "present_")
