"""FP32 against quantized, run through Polygraphy and judged by SQNR, cosine similarity and token agreement."""

import importlib.util
import logging
import math
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trtasr.engine.sessions import expose, folder_of, has_half, load_model, open_session
from trtasr.engine.trt_run import open_plan
from trtasr.errors import MissingError, QualityError, UsageError
from trtasr.files.write import replacing
from trtasr.results import Comparison, TensorComparison
from trtasr.values import FloatArray, IntArray

log = logging.getLogger(__name__)

Feed = tuple[FloatArray, IntArray]
Observe = Callable[[FloatArray, IntArray], Mapping[str, npt.NDArray[Any]]]

INPUTS_FILE = "comparison_inputs.json"
RESULTS_FILE = "comparison.json"
REFERENCE_FILE = "comparison_reference.json"  # written by the printed command, not by `compare`
SNR_FLOOR_DB = 20  # Polygraphy's own default: the noise has 1 % of the energy
WRITTEN_BY_POLYGRAPHY = b'"polygraphy_class"'  # near the end of every file that it saves
MAX_INPUT_BYTES = 2_500_000  # keeps both files together below about 5 MB


@dataclass(frozen=True)
class Files:
    """Where one comparison is kept.

    Attributes:
        folder: the bundle.
        inputs: file name of what both graphs were fed; results: of what they gave; reference: of the FP32 outputs,
            written by the printed command.
    """

    folder: Path
    inputs: str = INPUTS_FILE
    results: str = RESULTS_FILE
    reference: str = REFERENCE_FILE


def compare(
    reference: Path,
    candidate: Path,
    feeds: Sequence[Feed],
    out_dir: Path,
    labels: tuple[str, str] = ("fp32", "int8"),
    features_kind: str = "synthetic",
) -> Comparison:
    """Runs two graphs on the same features and saves what Polygraphy loads again.

    Every utterance runs alone and cut to its valid length, so that no padded frame counts. Utterances beyond about
    2.5 MB of features (98 s at 64 mel bins and 100 frames per second) are left out.

    Args:
        reference: FP32 ONNX file.
        candidate: quantized ONNX file with the same inputs and outputs, or a plan, which runs on the GPU.
        feeds: features float32 [B, mel, T] and lengths int64 [B].
        out_dir: the bundle; gets ``comparison_inputs.json`` and ``comparison.json``.
        labels: runner names of reference and candidate.
        features_kind: what `feeds` hold: ``audio`` (from recordings) or ``synthetic`` (generated, noise included).

    Returns:
        Comparison over all valid frames; `Comparison.command` is to be run inside the bundle and exits with 1 when the
        SNR of an utterance is below 20 dB.

    Raises:
        UsageError: no frames to compare.
        QualityError: NaN or infinity in an output, or different output lengths.
        MissingError: Polygraphy is not installed; a plan without its GPU.
    """
    inputs = feature_inputs(feeds)
    outputs = run_both((reference, candidate), inputs, labels, Files(out_dir))
    tensors, agreement, frames = _judge(outputs[0], outputs[1], labels)
    log.info("compared %d utterances, %d frames", len(inputs), frames)
    return Comparison(
        reference=labels[0],
        candidate=labels[1],
        tensors=tensors,
        token_agreement=agreement,
        frames=frames,
        features=features_kind,
        command=polygraphy_command(reference, candidate, Files(out_dir)),
        results_file=RESULTS_FILE,
    )


def feature_inputs(feeds: Sequence[Feed]) -> list[dict[str, npt.NDArray[Any]]]:
    """Inputs of each utterance alone, as many as fit the files.

    Raises:
        UsageError: none.
    """
    kept = _within_budget(_utterances(feeds))
    inputs: list[dict[str, npt.NDArray[Any]]] = [{"features": x, "lengths": lengths} for x, lengths in kept]
    if not inputs:
        raise UsageError("nothing to compare: every utterance is empty", "pass features with at least one valid frame")
    return inputs


def run_both(
    paths: tuple[Path, Path], inputs: Sequence[Mapping[str, npt.NDArray[Any]]], labels: tuple[str, str], files: Files
) -> list[list[dict[str, npt.NDArray[Any]]]]:
    """Outputs of two graphs on the same inputs, run and saved by Polygraphy.

    Returns:
        for each graph, for each of the inputs: output name -> values.

    Raises:
        MissingError: Polygraphy is not installed; a plan without its GPU.
        UsageError: files of somebody else's lie where these are to be kept.
    """
    if importlib.util.find_spec("polygraphy") is None:
        raise MissingError("Polygraphy is not installed", "pip install 'polygraphy>=0.53.6,<0.60'")
    from polygraphy.comparator import Comparator  # noqa: PLC0415
    from polygraphy.json import save_json  # noqa: PLC0415
    from polygraphy.logger import G_LOGGER  # noqa: PLC0415

    keep_foreign(files)
    runners = [_runner(path, label) for path, label in zip(paths, labels, strict=True)]
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        results = Comparator.run(runners, data_loader=inputs)
        with replacing(files.folder / files.inputs) as partial:
            save_json(inputs, str(partial))
        with replacing(files.folder / files.results) as partial:
            results.save(str(partial))
        return [[dict(iteration.items()) for iteration in results[label]] for label in labels]


def _runner(path: Path, label: str) -> Any:
    """Polygraphy's runner of an ONNX file, or one of ours for a plan: Polygraphy's own loads a CUDA runtime besides."""
    from polygraphy.backend.base import BaseRunner  # noqa: PLC0415
    from polygraphy.backend.onnxrt import OnnxrtRunner  # noqa: PLC0415
    from polygraphy.common import TensorMetadata  # noqa: PLC0415

    if path.suffix != ".plan":
        return OnnxrtRunner(lambda: open_session(path), name=label)

    class PlanRunner(BaseRunner):  # type: ignore[misc]
        def activate_impl(self) -> None:
            self.stack = ExitStack()
            self.observe = self.stack.enter_context(plan_observer(path))

        def get_input_metadata_impl(self) -> Any:
            features, lengths = (-1, -1, -1), (-1,)
            return TensorMetadata().add("features", np.float32, features).add("lengths", np.int64, lengths)

        def infer_impl(self, feed_dict: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
            self.inference_time = 0.0
            return dict(self.observe(feed_dict["features"], feed_dict["lengths"]))

        def deactivate_impl(self) -> None:
            self.stack.close()

    return PlanRunner(name=label)


def _utterances(feeds: Sequence[Feed]) -> Iterator[Feed]:
    for features, lengths in feeds:
        for item, length in zip(features, lengths, strict=True):
            if length > 0:
                yield np.ascontiguousarray(item[None, :, : int(length)]), np.array([length], np.int64)


def _within_budget(feeds: Iterator[Feed]) -> Iterator[Feed]:
    used = 0
    for features, lengths in feeds:
        used += features.nbytes
        if used > MAX_INPUT_BYTES and used > features.nbytes:
            log.info("comparison limited to %.1f MB of features", MAX_INPUT_BYTES / 1e6)
            return
        yield features, lengths


def keep_foreign(files: Files) -> None:
    """Refuse to replace what is no file of a comparison.

    Raises:
        UsageError: one lies where a comparison is to be kept.
    """
    for path in (files.folder / files.inputs, files.folder / files.results):
        if path.is_file() and WRITTEN_BY_POLYGRAPHY not in _tail(path):
            raise UsageError(f"{path}: is no file of a comparison, and stays", "choose another folder with -o")


def _tail(path: Path, size: int = 256) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read(size)


def _judge(
    reference: list[dict[str, Any]], candidate: list[dict[str, Any]], labels: tuple[str, str]
) -> tuple[tuple[TensorComparison, ...], float, int]:
    """Compares log-probabilities over valid frames: per tensor, share of frames with equal argmax, frames."""
    name, lengths_name = list(reference[0])[:2]
    pairs = []
    for index, (expected, actual) in enumerate(zip(reference, candidate, strict=True)):
        count = int(expected[lengths_name][0])
        if count != int(actual[lengths_name][0]):
            raise QualityError(f"utterance {index}: {labels[1]} gives another output length than {labels[0]}", REPAIR)
        pairs.append((expected[name][0, :count].astype(np.float64), actual[name][0, :count].astype(np.float64)))
    first, second = (np.concatenate(side) for side in zip(*pairs, strict=True))
    for values, label in zip((first, second), labels, strict=True):
        if not np.isfinite(values).all():
            raise QualityError(f"{name} of {label} holds NaN or infinity", REPAIR)
    agreement = float(np.mean(first.argmax(axis=-1) == second.argmax(axis=-1)))
    return (compare_tensor(name, first, second),), agreement, len(first)


REPAIR = "calibrate again; if it stays, report the checkpoint and recipe"


def compare_tensor(name: str, reference: npt.NDArray[Any], candidate: npt.NDArray[Any]) -> TensorComparison:
    """SQNR, cosine similarity and largest difference of two tensors of one shape."""
    noise = reference - candidate
    norms = math.sqrt(float(np.sum(reference**2)) * float(np.sum(candidate**2)))
    return TensorComparison(
        tensor=name,
        sqnr_db=sqnr_db(float(np.sum(reference**2)), float(np.sum(noise**2))),
        cosine=float(np.sum(reference * candidate)) / norms if norms else float(not noise.any()),
        max_abs=float(np.max(np.abs(noise))),
    )


def sqnr_db(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two energies; infinite for no noise, minus infinity for noise without signal."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def output_sqnr(reference: Iterable[FloatArray], found: Iterable[FloatArray]) -> float:
    """SQNR in dB of an output over all utterances, float64 sums."""
    signal = noise = 0.0
    for exact, other in zip(reference, found, strict=True):
        signal += float(np.square(exact, dtype=np.float64).sum())
        noise += float(np.square(exact.astype(np.float64) - other).sum())
    return sqnr_db(signal, noise)


def layer_sqnr(reference: Observe, candidate: Observe, names: Sequence[str], feeds: Sequence[Feed]) -> dict[str, float]:
    """SQNR in dB of inner tensors over valid frames.

    Args:
        reference: features and lengths -> values by tensor name, for instance `ort_observer`.
        candidate: likewise.
        names: tensors that both give.
        feeds: features float32 [B, mel, T] and lengths int64 [B]; each utterance runs alone at its valid length.
    """
    energies = {name: np.zeros(2) for name in names}
    for features, lengths in _utterances(feeds):
        expected, actual = reference(features, lengths), candidate(features, lengths)
        for name in names:
            exact = expected[name].astype(np.float64)
            energies[name] += np.sum(exact**2), np.sum((exact - actual[name].astype(np.float64)) ** 2)
    return {name: sqnr_db(*energy) for name, energy in energies.items()}


def ort_observer(model: Path | bytes, names: Sequence[str]) -> Observe:
    """Inner tensors of a graph run by ONNX Runtime."""
    session = open_session(expose(model, names), folder=folder_of(model))

    def observe(features: FloatArray, lengths: IntArray) -> Mapping[str, npt.NDArray[Any]]:
        return dict(zip(names, session.run(list(names), {"features": features, "lengths": lengths}), strict=True))

    return observe


@contextmanager
def plan_observer(plan: Path) -> Iterator[Observe]:
    """Outputs of a plan run on the GPU, inside the block.

    Raises:
        MissingError: no GPU, TensorRT or pycuda. BuildError: the plan cannot be loaded here.
    """
    with open_plan(plan, graphs=False) as runner:

        def observe(features: FloatArray, lengths: IntArray) -> Mapping[str, npt.NDArray[Any]]:
            runner(features, lengths)
            return runner.outputs()

        yield observe


def shared_tensors(models: Sequence[Path], names: Sequence[str]) -> list[str]:
    """Those of `names` that all ONNX files compute under one name."""
    held = [_tensors(path) for path in models]
    return [name for name in dict.fromkeys(names) if all(name in tensors for tensors in held)]


def _tensors(path: Path) -> set[str]:
    return {name for node in load_model(path).graph.node for name in node.output}


def polygraphy_command(reference: Path, candidate: Path, files: Files) -> str:
    """The `polygraphy run` commands that repeat the comparison inside the bundle; exit status 1: SNR below 20 dB."""
    runs = [_polygraphy_run(path, files) for path in (reference, candidate)]
    judged = f"--load-outputs {files.reference} --compare snr --snr-threshold {SNR_FLOOR_DB}"
    return f"{runs[0]} --save-outputs {files.reference} && {runs[1]} {judged}"


def _polygraphy_run(path: Path, files: Files) -> str:
    inside = path.resolve().is_relative_to(files.folder.resolve())
    shown = path.resolve().relative_to(files.folder.resolve()) if inside else path.resolve()
    if path.suffix == ".plan":
        return f"polygraphy run --trt {shlex.quote(str(shown))} --model-type engine --load-inputs {files.inputs}"
    command = f"polygraphy run {shlex.quote(str(shown))} --onnxrt --load-inputs {files.inputs}"
    # ONNX Runtime's optimizer is wrong on FP16 Q/DQ convolutions with a bias (see `open_session`).
    return f"{command} --graph-optimization-level ORT_DISABLE_ALL" if has_half(load_model(path)) else command
