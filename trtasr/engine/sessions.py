"""ONNX Runtime on the CPU: the FP32 reference, the `cpu` engine, and the stand-in for engines whose GPU is not here."""

import logging
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from tqdm import tqdm

from trtasr.engine.faults import REPAIR, Session, model_errors
from trtasr.engine.signed_weights import unsigned_to_signed
from trtasr.errors import AudioError, BundleError, said
from trtasr.files.cpus import FLOAT, SPINNING, multiplies_codes_exactly
from trtasr.files.cpus import threads as usual_threads
from trtasr.values import Array, FloatArray, IntArray

log = logging.getLogger(__name__)

Observe = Callable[[Mapping[str, Array]], Mapping[str, Array]]  # inputs of a graph -> tensors of it, by name
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


def load_model(model: Path | bytes, weights: bool = True) -> Any:
    """Parses an ONNX model from a file or from its bytes; on request without weights that lie in a file of their own.

    Raises:
        BundleError: the file, or that of its weights, is missing or no ONNX model.
    """
    name = "model" if isinstance(model, bytes) else str(model)
    try:
        with model_errors(name):
            if isinstance(model, bytes):
                found = onnx.load_from_string(model)
            else:
                found = onnx.load(model, load_external_data=weights)
    except OSError as error:
        raise BundleError(f"{name}: cannot be read as an ONNX model ({said(error)})", REPAIR) from error
    if not found.graph.node:  # an empty file is one, to protobuf
        raise BundleError(f"{name}: an ONNX model without a graph", REPAIR)
    return found


def has_half(model: Any) -> bool:
    """True when any constant of the graph (an ONNX ModelProto) is FP16."""
    return any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)


def session_options(threads: int, timed: bool) -> Any:
    """Options of a session that runs one operator at a time; arguments as in `open_session`."""
    import onnxruntime  # noqa: PLC0415 - as there

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usual_threads()
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # its errors are raised, and told once
    options.add_session_config_entry(SPINNING, "1" if timed else "0")
    return options


def open_session(
    model: Path | bytes,
    threads: int = 0,
    optimized: Path | None = None,
    folder: Path | None = None,
    timed: bool = False,
) -> Any:
    """An ONNX Runtime CPU session.

    Stored graphs have uint8 weights, which any processor multiplies exactly; where it does so with int8 ones too, they
    are int8 in the session, for which ONNX Runtime's kernels are faster.

    Args:
        model: ONNX file, or its bytes.
        threads: threads inside an operator; 0: one per usable CPU.
        optimized: where to write the graph as ONNX Runtime optimized it; None: nowhere.
        folder: of the weights of a model in bytes that are in a file of their own; None: they are in the bytes.
        timed: True lets its threads spin while they wait: faster on a quiet machine, a burden on a busy one.

    Returns:
        Session: sequential, one operator at a time.

    Raises:
        BundleError: the file is missing or no ONNX model that ONNX Runtime can run.
    """
    import onnxruntime  # noqa: PLC0415 - half a second that `doctor` and `inspect` do not need

    options, exact = session_options(threads, timed), multiplies_codes_exactly()
    options.add_session_config_entry(FLOAT, "0" if exact else "1")
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    # WeightBiasQuantization gives wrong results on FP16 Q/DQ convolutions with a bias (an int32 bias needs a scale
    # product that FP16 cannot hold), but FP32 Q/DQ graphs need it: without it no convolution with a bias runs in INT8.
    proto = load_model(model, weights=False)
    disabled = ["WeightBiasQuantization"] if has_half(proto) else []
    # Its planner for shared buffers takes the square of the number of nodes: 8 s for the bundled Conformer's integers.
    options.enable_mem_reuse = not proto.functions
    source = model if isinstance(model, bytes) else str(model)
    name = "model" if isinstance(model, bytes) else model
    with model_errors(name):
        signed = unsigned_to_signed(proto) if exact else proto
        if signed is not proto:
            source, folder = signed.SerializeToString(), folder or folder_of(model)
        del proto, signed  # ONNX Runtime holds what they hold, which may be much
        if folder is not None:
            options.add_session_config_entry(WEIGHTS_FOLDER, str(folder))
        session = onnxruntime.InferenceSession(
            source, options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled, enable_fallback=0
        )  # there is nothing to fall back to: it would only tell so on standard output
    return Session(session, name)


class OrtRunner:
    """An acoustic model run by ONNX Runtime on the CPU.

    Args:
        path: ONNX file with inputs ``features`` and ``lengths``; its first two outputs are the log-probabilities and
            their lengths.
        threads: threads inside an operator; 0: one per usable CPU.
        timed: as in `open_session`.
    """

    def __init__(self, path: Path, threads: int = 0, timed: bool = False) -> None:
        self._path = path
        self._session = open_session(path, threads, timed=timed)
        self._names = [output.name for output in self._session.get_outputs()]
        self._longest = self._session.get_modelmeta().custom_metadata_map.get("longest_frames", "")

    def __call__(self, features: FloatArray, lengths: IntArray) -> tuple[FloatArray, IntArray]:
        """Features float32 [B, mel, T], lengths int64 [B] -> log-probabilities [B, T', V + 1], lengths [B].

        Integer-only graphs give logits int32 instead.

        Raises:
            AudioError: longer than an integer-only graph's table of positions. BundleError: the model cannot be run.
        """
        try:
            found = self._session.run(self._names[:2], {"features": features, "lengths": lengths})
        except BundleError as error:
            if not self._longest:
                raise
            raise AudioError(
                f"{features.shape[2]} feature frames: the integer-only graph cannot run them ({error.problem:.160})",
                f"its self-attention takes at most {self._longest} frames behind subsampling; cut the audio",
            ) from error
        if not acoustic(found, len(lengths)):
            raise BundleError(f"{self._path}: gives no log-probabilities [B, T, tokens] with their lengths [B]", REPAIR)
        return found[0], found[1]


def acoustic(outputs: Sequence[Any], batch: int) -> bool:
    """True for scores [B, T, tokens], float32 or int32, and lengths int64 [B] of 0..T."""
    if len(outputs) != 2 or not all(isinstance(output, np.ndarray) for output in outputs):
        return False
    scores, lengths = outputs
    typed = scores.dtype in (np.float32, np.int32) and lengths.dtype == np.int64
    sized = scores.ndim == 3 and len(scores) == batch and scores.shape[2] > 0 and lengths.shape == (batch,)
    return bool(typed and sized and (lengths >= 0).all() and (lengths <= scores.shape[1]).all())


def expose(model: Path | bytes, names: Sequence[str]) -> bytes:
    """The serialized model with the named tensors among its outputs; weights in a file of their own stay there."""
    proto = load_model(model, weights=False)
    present = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    return bytes(proto.SerializeToString())


def folder_of(model: Path | bytes) -> Path | None:
    """Where the weights of a model lie, if it is a file."""
    return None if isinstance(model, bytes) else model.parent


def ort_observer(model: Path | bytes, names: Sequence[str], threads: int = 0) -> Observe:
    """Inner tensors of a graph run by ONNX Runtime; those that are no output yet are exposed."""
    session = open_session(expose(model, names), threads, folder=folder_of(model))

    def observed(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        return dict(zip(names, session.run(list(names), inputs), strict=True))

    return observed


def observe(
    model: Path | bytes, names: Sequence[str], feeds: Iterable[Mapping[str, Array]], threads: int = 0
) -> Iterator[tuple[str, FloatArray]]:
    """Streams the values of inner tensors over a calibration set.

    Each utterance runs alone and at its own valid length, so that no padded frame reaches an observer and no more
    than one utterance's tensors are held at a time.

    Args:
        model: FP32 ONNX file, or its bytes.
        names: tensors of the graph; those that are no output yet are exposed.
        feeds: its inputs, one utterance each.
        threads: threads inside an operator; 0: one per usable CPU.

    Yields:
        tensor name and float32 values without the batch axis, for a convolution [C, T_valid].
    """
    observed = ort_observer(model, names, threads)
    for feed in tqdm(feeds, "observe", disable=None, unit="utt"):
        for name, value in observed(feed).items():
            yield name, value[0].astype(np.float32, copy=False)


def cpu_name() -> str:
    """Model name of this machine's processor."""
    return cpu_facts().get("model name") or platform.processor() or platform.machine()


def cpu_facts() -> dict[str, str]:
    """Fields of the first processor in /proc/cpuinfo; empty where there is no such file."""
    source = Path("/proc/cpuinfo")
    if not source.is_file():
        return {}
    first = source.read_text(encoding="utf-8").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
