"""A TensorRT 10.16 whose kernels are ONNX Runtime's: the calls that trtasr makes, with TensorRT's rules around them.

A "plan" is the ONNX graph it was built from. Weak and strong typing, calibrators, timing caches, progress, inspector,
profiler and dynamic shapes behave as documented. The environment can make it slow or picky: FAKE_TRT_MS_INT8,
FAKE_TRT_MS_FP16 and FAKE_TRT_MS_FP32 are the milliseconds a run claims to take, FAKE_TRT_NO_INT8 names quantized
convolutions without a kernel, FAKE_TRT_NO_MEMORY leaves no workspace, FAKE_TRT_NO_BUILDER gives no builder at all.
"""

import enum
import json
import os
import weakref

import numpy as np
import onnx
from onnx import TensorProto
from pycuda import driver
from trt_layers import LayerType, network_layers
from trt_names import (  # noqa: F401 - some are looked for here, as in the library
    BuilderFlag,
    DataType,
    ExecutionContextAllocationStrategy,
    ILogger,
    Logger,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
    ProfilingVerbosity,
    Severity,
    TensorIOMode,
)

from trtasr.engine.sessions import open_session

__version__ = "10.16.1.11"
MAGIC = b"fake plan\n"


class LayerInformationFormat(enum.IntEnum):
    ONELINE, JSON = range(2)


def nptype(dtype):
    return {DataType.FLOAT: np.float32, DataType.HALF: np.float16, DataType.INT64: np.int64}[dtype]


class IProgressMonitor:
    def __init__(self):
        pass


class IProfiler:
    def __init__(self):
        pass


class IInt8EntropyCalibrator2:
    algorithm = "EntropyCalibration2"

    def __init__(self):
        self.initialized = True


class IInt8MinMaxCalibrator(IInt8EntropyCalibrator2):
    algorithm = "MinMaxCalibration"


class Network:
    """Layers as the ONNX parser writes them: a convolution over time stands between an unsqueeze and a squeeze."""

    def __init__(self, flags):
        self.strongly_typed = bool(flags & 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self.graph, self.layers = b"", []

    @property
    def num_layers(self):
        return len(self.layers)

    def get_layer(self, index):
        return self.layers[index]


class OnnxParser:
    def __init__(self, network, logger):
        self.network, self.logger = network, logger

    def parse(self, content):
        try:
            onnx.checker.check_model(content)
        except Exception as error:  # the parser says why in the log
            self.logger.log(Severity.ERROR, f"ModelImporter: {error}")
            return False
        self.network.graph = content
        self.network.layers = network_layers(onnx.load_from_string(content).graph)
        return True


Dims = tuple


class Profile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, name, low, usual, high):
        assert all(a >= 0 for a in low)  # empty tensors are tensors
        assert all(a <= b <= c for a, b, c in zip(low, usual, high, strict=True))
        self.shapes[name] = [low, usual, high]


class TimingCache:
    def __init__(self, content):
        self.content = content

    def serialize(self):
        return self.content or b"timings"


class Config:
    def __init__(self):
        self.profiles, self.flags, self.int8_calibrator, self.progress_monitor = [], set(), None, None
        self.profiling_verbosity, self.cache = ProfilingVerbosity.LAYER_NAMES_ONLY, None
        self.avg_timing_iterations = 1

    def add_optimization_profile(self, profile):
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def set_memory_pool_limit(self, pool, size):
        assert size >= 1 << 20

    def create_timing_cache(self, content):
        return None if content == b"damaged" else TimingCache(content)

    def set_timing_cache(self, cache, ignore_mismatch):
        if cache.content == b"of another driver" and not ignore_mismatch:
            return False
        self.cache = cache
        return True

    def set_flag(self, flag):
        self.flags.add(flag)

    def set_calibration_profile(self, profile):
        assert profile in self.profiles
        self.calibration_profile = profile


class Builder:
    def __init__(self, logger):
        if os.environ.get("FAKE_TRT_NO_BUILDER"):
            logger.log(
                Severity.WARNING, "CUDA initialization failure with error: 35. Please check your CUDA installation"
            )
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.logger = logger

    def create_network(self, flags=0):
        return Network(flags)

    def create_builder_config(self):
        return Config()

    def create_optimization_profile(self):
        return Profile()

    def build_serialized_network(self, network, config):
        if network.strongly_typed and (config.flags or config.int8_calibrator):
            self.logger.log(Severity.ERROR, "API Usage Error (precision flags on a strongly typed network)")
            return None
        graph = onnx.load_from_string(network.graph).graph
        monitor = config.progress_monitor
        monitor.phase_start("Building engine", None, 2)
        for name in filter(None, os.environ.get("FAKE_TRT_NO_INT8", "").split(",")):
            if any(node.name == name and node.input[0].endswith("_dequantized") for node in graph.node):
                self.logger.log(
                    Severity.ERROR,
                    "[optimizer.cpp::computeCosts::4115] Error Code 10: Internal Error "
                    f"(Could not find any implementation for node {name}.)",
                )
                return None
        if os.environ.get("FAKE_TRT_NO_MEMORY"):
            self.logger.log(
                Severity.ERROR,
                "Error Code 10: Internal Error (Could not find any implementation for node "
                f"{graph.node[0].name} due to insufficient workspace. See verbose log.)",
            )
            return None
        monitor.step_complete("Building engine", 0)
        calibrated, int8 = "", []
        if config.int8_calibrator is not None:
            calibrated, known = calibrate(config, self.logger)
            int8 = calibrated_layers(network, config, known)
            for tensor in () if known is None else missing_scales(network, known):
                self.logger.log(
                    Severity.WARNING,
                    f"Missing scale and zero-point for tensor {tensor}, "
                    "expect fall back to non-int8 implementation for any layer consuming or producing given tensor",
                )
        monitor.phase_finish("Building engine")
        header = {
            "profiles": [profile.shapes for profile in config.profiles],
            "calibrated": calibrated,
            "int8": int8,
            "detailed": config.profiling_verbosity == ProfilingVerbosity.DETAILED,
            "averaged": config.avg_timing_iterations,
        }
        return MAGIC + json.dumps(header).encode() + b"\n" + network.graph


def calibrated_layers(network, config, known):
    """Names of the convolutions between two scales that no precision keeps in FP16; known: None for all tensors."""
    convolutions = [layer for layer in network.layers if layer.type == LayerType.CONVOLUTION]
    bound = BuilderFlag.PREFER_PRECISION_CONSTRAINTS in config.flags
    free = [layer for layer in convolutions if not (bound and layer.precision == DataType.HALF)]
    return [layer.name for layer in free if known is None or {layer.inputs[0].name, layer.outputs[0].name} <= known]


def missing_scales(network, known):
    """What convolutions and products with masks read without a scale."""
    read = {tensor.name: None for layer in network.layers if layer.scaled for tensor in layer.inputs}
    return [name for name in read if name not in known]


def calibrate(config, logger):
    """What TensorRT does with a calibrator: ask for a cache of its own version, else for batches at the OPT shape."""
    calibrator = config.int8_calibrator
    assert calibrator.initialized
    assert {BuilderFlag.INT8} <= config.flags
    cache = calibrator.read_calibration_cache()
    if cache is not None and bytes(cache).startswith(f"TRT-101601-{calibrator.algorithm}\n".encode()):
        return "cache", {line.rpartition(": ")[0] for line in bytes(cache).decode().splitlines()[1:]}
    shape = config.calibration_profile.shapes["features"][1]
    count = 0
    while (pointers := calibrator.get_batch(["features", "lengths"])) is not None:
        values = driver.memory[pointers[0]].view(np.float32)
        assert values.size == int(np.prod(shape))
        assert np.isfinite(values).all()
        count += 1
    if not count:
        logger.log(Severity.ERROR, "Calibration failure occurred with no scaling factors detected.")
    calibrator.write_calibration_cache(memoryview(b"TRT-101601-X\n"))
    return f"{count} batches", None


class Runtime:
    def __init__(self, logger):
        pass

    def deserialize_cuda_engine(self, plan):
        driver.need_context()
        return Engine(plan) if plan.startswith(MAGIC) else None


class Engine:
    def __init__(self, plan):
        header, _, self.graph = plan.removeprefix(MAGIC).partition(b"\n")
        self.header = json.loads(header)
        self.proto = onnx.load_from_string(self.graph).graph
        self.values = [*self.proto.input, *self.proto.output]
        self.num_io_tensors, self.num_optimization_profiles = len(self.values), len(self.header["profiles"])

    @property
    def precision(self):
        """Of the first convolution: INT8 where any is quantized."""
        if self.header["calibrated"] or any(node.op_type == "QuantizeLinear" for node in self.proto.node):
            return "INT8"
        half = any(item.data_type == TensorProto.FLOAT16 for item in self.proto.initializer)
        return "FP16" if half else "FP32"

    def get_tensor_name(self, index):
        return self.values[index].name

    def get_tensor_mode(self, name):
        inputs = {value.name for value in self.proto.input}
        return TensorIOMode.INPUT if name in inputs else TensorIOMode.OUTPUT

    def get_tensor_profile_shape(self, name, profile_index):
        shapes = self.header["profiles"][profile_index].get(name) or [self.static(name)] * 3
        return [tuple(shape) for shape in shapes]

    def static(self, name):
        """The shape of an input that the graph itself fixes."""
        value = next(value for value in self.proto.input if value.name == name)
        shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        assert all(shape), f"input {name} is dynamic and in no profile"
        return shape

    def get_tensor_dtype(self, name):
        kind = next(value for value in self.values if value.name == name).type.tensor_type.elem_type
        return {
            TensorProto.FLOAT: DataType.FLOAT,
            TensorProto.FLOAT16: DataType.HALF,
            TensorProto.INT64: DataType.INT64,
        }[kind]

    device_memory_size_v2 = 4096  # of a context's activations

    def create_execution_context(self, strategy=ExecutionContextAllocationStrategy.STATIC):
        driver.need_no_capture()
        if strategy == ExecutionContextAllocationStrategy.USER_MANAGED and os.environ.get("FAKE_TRT_NO_CONTEXT"):
            return None
        return ExecutionContext(self, strategy)

    def create_engine_inspector(self):
        return Inspector(self)


class Inspector:
    def __init__(self, engine):
        self.engine, self.execution_context = engine, None

    def get_engine_information(self, form):
        assert form == LayerInformationFormat.JSON
        layers = [described(node, self.engine) for node in weighted(self.engine)]
        if set(self.execution_context.shapes) != {value.name for value in self.engine.proto.input}:
            for layer in layers:
                for tensor in (*layer["Inputs"], *layer["Outputs"]):
                    tensor["Format/Datatype"] = "N/A due to dynamic shapes"
        return json.dumps({"Layers": layers})


def weighted(engine):
    return [node for node in engine.proto.node if node.op_type in ("Conv", "MatMul")]


def described(node, engine):
    if not engine.header["detailed"]:
        return node.name
    half = "FP16" if engine.precision != "FP32" else "FP32"
    quantized = node.input[0].endswith("_dequantized") or node.name in engine.header["int8"]
    kind = "Int8" if quantized else {"FP16": "Half", "FP32": "Float"}[half]
    return {
        "Name": f"{node.input[1]} + {node.name}",
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": node.input[0], "Format/Datatype": f"Row major linear {kind} format"}],
        "Outputs": [
            {"Name": node.output[0], "Format/Datatype": f"Row major linear {written(node, engine) or half} format"}
        ],
        "Weights": {"Type": kind, "Count": 1},
        "TacticName": f"fake_{kind.lower().replace('int', 'i')}",
        "Metadata": f"[ONNX Layer: {node.name}]",
    }


def written(node, engine):
    """What a convolution writes where its ReLU, and a Q that alone reads that, are part of it: Int8."""
    name = node.output[0]
    for kind in ("Relu", "QuantizeLinear"):
        readers = [reader for reader in engine.proto.node if name in reader.input]
        if [reader.op_type for reader in readers] != [kind]:
            return ""
        name = readers[0].output[0]
    return "Int8"


class ExecutionContext:
    """Of one profile; after a new shape it must run once before it is captured, then it must keep its shapes."""

    def __init__(self, engine, strategy):
        self.engine, self.shapes, self.addresses, self.profiler = engine, {}, {}, None
        self.session, self.known, self.profile = open_session(engine.graph, threads=1), {}, 0
        self.user_managed, self.memory = strategy == ExecutionContextAllocationStrategy.USER_MANAGED, None
        self.settled = False

    def set_device_memory(self, memory, size):
        assert size >= self.engine.device_memory_size_v2
        self.memory = memory

    def set_optimization_profile_async(self, profile_index, stream_handle):
        assert 0 <= profile_index < self.engine.num_optimization_profiles
        self.shapes, self.profile, self.settled = {}, profile_index, False
        return True

    def set_input_shape(self, name, shape):
        low, _, high = self.engine.get_tensor_profile_shape(name, self.profile)
        fits = all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        if fits:
            self.settled = self.settled and self.shapes.get(name) == tuple(shape)
            self.shapes[name] = tuple(shape)
        return fits

    def get_tensor_shape(self, name):
        if name in self.shapes:
            return self.shapes[name]
        zeros = {value.name: self.zeros(value.name) for value in self.engine.proto.input}
        if name in zeros:
            return zeros[name].shape
        shapes = tuple(sorted((key, value.shape) for key, value in zeros.items()))
        if (shapes, name) not in self.known:
            names = [value.name for value in self.engine.proto.output]
            found = self.session.run(names, zeros)
            self.known |= {(shapes, n): value.shape for n, value in zip(names, found, strict=True)}
        return self.known[shapes, name]

    def zeros(self, name):
        """An input of the shape that was set; integers are ones: lengths must not be 0."""
        dtype = nptype(self.engine.get_tensor_dtype(name))
        shape = self.shapes[name] if name in self.shapes else self.engine.static(name)
        return np.full(shape, np.issubdtype(dtype, np.integer), dtype)

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def array(self, name):
        dtype = np.dtype(nptype(self.engine.get_tensor_dtype(name)))
        shape = self.get_tensor_shape(name)
        count = int(np.prod(shape)) * dtype.itemsize
        return driver.memory[self.addresses[name]][:count].view(dtype).reshape(shape)

    def execute_async_v3(self, stream_handle):
        names = [value.name for value in self.engine.values]
        stream, bound = driver.streams[stream_handle], {name: self.addresses.get(name) for name in names}
        missing = None in bound.values() or (self.user_managed and self.memory is None)
        if missing or (stream.captured is not None and not self.settled):
            return False
        # an output in the place of another tensor is undefined behaviour
        assert all(list(bound.values()).count(bound[value.name]) == 1 for value in self.engine.proto.output)
        self.settled = True
        here, shapes, memory = weakref.ref(self), dict(self.shapes), self.memory

        def run():
            context = here()
            assert context is not None, "a graph is launched whose context is gone"
            assert context.shapes == shapes, "a graph is launched whose context has another shape"
            if memory is not None:
                driver.inside(memory, context.engine.device_memory_size_v2)
            context.compute(bound)

        stream.do(run)
        return True

    def compute(self, places):
        inputs = [value.name for value in self.engine.proto.input]
        outputs = [value.name for value in self.engine.proto.output]
        driver.state.setdefault("profiles", set()).add(self.profile)
        largest = self.engine.header["profiles"][0].get("features", [[0]])[-1][0]
        driver.state.setdefault("ran", set()).add((largest, self.shapes.get("features")))  # utterances it takes
        self.addresses.update(places)
        found = self.session.run(outputs, {name: self.array(name) for name in inputs})
        for name, value in zip(outputs, found, strict=True):
            self.array(name)[...] = value
        defaults = {"INT8": "1", "FP16": "2", "FP32": "6"}
        precision = self.engine.precision
        driver.state["ms"] = float(os.environ.get(f"FAKE_TRT_MS_{precision}", defaults[precision]))
        if self.profiler is not None:
            for node in weighted(self.engine):
                self.profiler.report_layer_time(described(node, self.engine)["Name"], 0.5)
