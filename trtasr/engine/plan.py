"""A TensorRT plan: its optimization profiles, and execution contexts whose tensors live wherever they are bound."""

import logging
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trtasr.engine.bindings import Context, Engine, Trt
from trtasr.engine.device import Shape
from trtasr.engine.profile import nearest
from trtasr.errors import BuildError

log = logging.getLogger(__name__)

REBUILD = "build it on this host: plans belong to one GPU and one TensorRT version"
COMPILE = "compile the bundle again: both plans must come from one checkpoint"
BATCH = "widen engine.min_batch or engine.max_batch and build again"
SECONDS = "widen engine.min_seconds or engine.max_seconds and build again"
TOKENS = "compile the bundle again: prompt and max_length come from the checkpoint's generation_config.json"
REPAIRS = {("features", 2): SECONDS, ("cross", 2): SECONDS, ("tokens", 1): TOKENS, ("past", 2): TOKENS}


class Plan:
    """An engine with an execution context per optimization profile, whose tensors live wherever they are bound.

    Args:
        path: engine file.
        trt: the tensorrt module; runtime: its Runtime, shared by all plans.

    Attributes:
        context: its execution context, of the profile that `choose` took; at first the first one. Whoever sets it
            makes another one of this engine current.
        inputs: name -> type; outputs: likewise.

    Raises:
        BuildError: the plan cannot be loaded here.
    """

    def __init__(self, path: Path, trt: Trt, runtime: Any) -> None:
        self.path, self._trt = path, trt
        engine: Engine | None = runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise BuildError(f"{path}: TensorRT {trt.__version__} cannot load this plan", REBUILD)
        self._engine = engine
        context: Context | None = engine.create_execution_context()
        if context is None:
            raise BuildError(f"{path}: no GPU memory for its activations", "free GPU memory or lower engine.max_batch")
        self.context = context
        self._contexts = {0: self.context}  # each keeps its profile: changing it would cost a synchronization
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        types = {name: np.dtype(trt.nptype(self._engine.get_tensor_dtype(name))) for name in names}
        given = {name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT}
        self.inputs = {name: types[name] for name in names if name in given}
        self.outputs = {name: types[name] for name in names if name not in given}

    @cached_property
    def limits(self) -> dict[str, tuple[Shape, Shape]]:
        """Input -> smallest and largest shape of the plan's optimization profiles, which differ only in between."""
        shapes = {name: self._engine.get_tensor_profile_shape(name, 0) for name in self.inputs}
        return {name: (as_tuple(smallest), as_tuple(largest)) for name, (smallest, _, largest) in shapes.items()}

    @cached_property
    def tuned(self) -> list[Shape]:
        """Shape of the first input that each optimization profile is tuned for."""
        name = next(iter(self.inputs))
        profiles = range(self._engine.num_optimization_profiles)
        return [as_tuple(self._engine.get_tensor_profile_shape(name, index)[1]) for index in profiles]

    def choose(self, shape: Shape, stream: int) -> None:
        """Take the optimization profile that is tuned nearest to a shape; all inputs need their shapes anew after it.

        Args:
            shape: of the first input.
            stream: handle of the stream that the plan will be launched on.
        """
        index = nearest(self.tuned, shape)
        if index not in self._contexts:
            self._contexts[index] = self._context_of(index, stream)
        self.context = self._contexts[index]

    def own_context(self, shape: Shape, stream: int, memory: Callable[[int], int]) -> Context | None:
        """A further context, whose activations lie where others may have theirs while it does not run.

        A CUDA graph needs one that keeps its shapes: TensorRT's guide asks for one context per captured graph, and for
        memory that these share.

        Args:
            shape: of the first input; the optimization profile that is tuned nearest is taken.
            stream: handle of the stream that it will be launched on.
            memory: bytes -> address of a place for its activations.

        Returns:
            The context, or None where TensorRT gives none.
        """
        context: Context | None = self._engine.create_execution_context(
            self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if context is None or not context.set_optimization_profile_async(nearest(self.tuned, shape), stream):
            return None
        size = self._engine.device_memory_size_v2
        context.set_device_memory(memory(size), size)
        return context

    def takes(self, shape: Shape) -> bool:
        """Whether the first input may have a shape."""
        smallest, largest = self.limits[next(iter(self.inputs))]
        return all(least <= size <= most for least, size, most in zip(smallest, shape, largest, strict=True))

    def set_shape(self, name: str, shape: Shape) -> None:
        """Give an input its shape for the next run.

        Raises:
            BuildError: the shape is outside the plan's optimization profile; names what widens it.
        """
        for axis, (least, size, most) in enumerate(zip(self.limits[name][0], shape, self.limits[name][1], strict=True)):
            if not least <= size <= most:
                raise BuildError(
                    f"{self.path}: input {name} is {shape}, but its optimization profile has {least} to "
                    f"{most} at axis {axis}",
                    repair(name, axis),
                )
        if not self.context.set_input_shape(name, shape):
            raise BuildError(f"{self.path}: TensorRT refuses {shape} for input {name}", "see TensorRT's log above")

    def shape(self, name: str) -> Shape:
        """Shape of a tensor, once all inputs have theirs."""
        return as_tuple(self.context.get_tensor_shape(name))

    def bind(self, addresses: Mapping[str, int]) -> None:
        """Say where tensors lie on the GPU; no two outputs may share a place, nor an output and an input."""
        for name, address in addresses.items():
            self.context.set_tensor_address(name, address)

    def enqueue(self, stream: int) -> None:
        """Launch on a stream, given by its handle.

        Raises:
            BuildError: TensorRT refused.
        """
        if not self.context.execute_async_v3(stream):
            raise BuildError(
                f"{self.path}: TensorRT could not launch the plan", "see TensorRT's log above; build the plan again"
            )

    def close(self) -> None:
        """Free the plan's GPU memory."""
        del self.context, self._contexts, self._engine  # TensorRT wants them gone in this order

    def _context_of(self, profile: int, stream: int) -> Context:
        """A context of a further profile; where there is none, the first one, which takes the same shapes."""
        context: Context | None = self._engine.create_execution_context()
        if context is None or not context.set_optimization_profile_async(profile, stream):
            log.warning(
                "%s: no context for optimization profile %d: its shapes run under the first", self.path, profile
            )
            return self._contexts[0]
        return context


def repair(name: str, axis: int) -> str:
    """What widens the limits of an input."""
    kind = name.partition("_")[0]
    if axis == 0 and kind != "token":
        return BATCH
    return REPAIRS.get((kind, axis), COMPILE)


def as_tuple(dims: Any) -> Shape:
    """TensorRT's dimensions as numbers."""
    return tuple(dims[axis] for axis in range(len(dims)))
