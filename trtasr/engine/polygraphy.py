"""Two graphs run on the same inputs through Polygraphy: its files, and the commands that repeat it."""

import importlib.util
import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trtasr.engine.sessions import has_half, load_model, open_session
from trtasr.engine.trt_run import plan_observer
from trtasr.errors import MissingError, UsageError
from trtasr.files.write import replacing
from trtasr.values import Array

SNR_FLOOR_DB = 20  # Polygraphy's own default: the noise has 1 % of the energy
WRITTEN_BY_POLYGRAPHY = b'"polygraphy_class"'  # near the end of every file that it saves


@dataclass(frozen=True)
class Kept:
    """Where the comparison of one graph is kept.

    Attributes:
        folder: the bundle.
        part: name of the graph, in the names of its files; empty for a network's first.
    """

    folder: Path
    part: str = ""

    @property
    def inputs(self) -> str:
        """File name of what both graphs were fed."""
        return self._named("_inputs")

    @property
    def results(self) -> str:
        """File name of what they gave."""
        return self._named("")

    @property
    def reference(self) -> str:
        """File name of the FP32 outputs, written by the printed command."""
        return self._named("_reference")

    def _named(self, what: str) -> str:
        part = f"_{self.part}" if self.part else ""
        return f"comparison{part}{what}.json"


def run_both(
    paths: tuple[Path, Path], inputs: Sequence[Mapping[str, Array]], labels: tuple[str, str], kept: Kept
) -> list[list[dict[str, Array]]]:
    """Outputs of two graphs on the same inputs, run and saved by Polygraphy.

    Args:
        paths: ONNX files with the same inputs and outputs; or a plan, of one graph, which runs on the GPU.
        inputs: of single utterances.
        labels: names of the two runners.
        kept: where what Polygraphy loads again is saved.

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

    keep_foreign(kept)
    runners = [runner_of(path, label) for path, label in zip(paths, labels, strict=True)]
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        results = Comparator.run(runners, data_loader=inputs)
        with replacing(kept.folder / kept.inputs) as partial:
            save_json(inputs, str(partial))
        with replacing(kept.folder / kept.results) as partial:
            results.save(str(partial))
        return [[dict(iteration.items()) for iteration in results[label]] for label in labels]


def runner_of(path: Path, label: str) -> Any:
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

        def infer_impl(self, feed_dict: Mapping[str, Array]) -> dict[str, Array]:
            self.inference_time = 0.0
            return dict(self.observe(feed_dict))

        def deactivate_impl(self) -> None:
            self.stack.close()

    return PlanRunner(name=label)


def keep_foreign(kept: Kept) -> None:
    """Refuse to replace what is no file of a comparison.

    Raises:
        UsageError: one lies where a comparison is to be kept.
    """
    for path in (kept.folder / kept.inputs, kept.folder / kept.results):
        if path.is_file() and WRITTEN_BY_POLYGRAPHY not in tail(path):
            raise UsageError(f"{path}: is no file of a comparison, and stays", "choose another folder with -o")


def tail(path: Path, size: int = 256) -> bytes:
    """The last bytes of a file."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read(size)


def polygraphy_command(reference: Path, candidate: Path, kept: Kept) -> str:
    """The `polygraphy run` commands that repeat the comparison inside the bundle; exit status 1: SNR below 20 dB."""
    runs = [polygraphy_run(path, kept) for path in (reference, candidate)]
    judged = f"--load-outputs {kept.reference} --compare snr --snr-threshold {SNR_FLOOR_DB}"
    return f"{runs[0]} --save-outputs {kept.reference} && {runs[1]} {judged}"


def polygraphy_run(path: Path, kept: Kept) -> str:
    """The command that runs a graph or a plan over the stored inputs."""
    inside = path.resolve().is_relative_to(kept.folder.resolve())
    shown = path.resolve().relative_to(kept.folder.resolve()) if inside else path.resolve()
    if path.suffix == ".plan":
        return f"polygraphy run --trt {shlex.quote(str(shown))} --model-type engine --load-inputs {kept.inputs}"
    command, model = f"polygraphy run {shlex.quote(str(shown))} --onnxrt --load-inputs {kept.inputs}", load_model(path)
    if has_half(model):  # ONNX Runtime's optimizer is wrong on FP16 Q/DQ convolutions with a bias (see `open_session`)
        return f"{command} --graph-optimization-level ORT_DISABLE_ALL"
    if any(node.op_type == "DequantizeLinear" for node in model.graph.node):  # not in INT8, which may overflow here
        return f"{command} --graph-optimization-level ORT_ENABLE_BASIC"
    return command
