"""``make peers``: INT8 by other tools, given real audio, beside ours, given none: one checkpoint, the same speech.

    python -m peers MODEL --manifest speech.json,more.json --audio calibration.json [--only 'ort dynamic' ...]
        [--modelopt PYTHON] [--keep FOLDER]

Rows: our engines, by default, and the controls of our static scales, calibrated without audio, by noise and on the
audio; then what ONNX Runtime's own quantizer makes of the FP32 graphs: static scales of every tensor by three
calibrators on the audio, of which they hear 4 s of 16 recordings, or dynamic ones; then what NVIDIA ModelOpt makes of
them and of the same recordings, where the Python of an environment that has it is given. All are judged against FP32 by
the same decoder on the same speech: WER, its difference with a 95 % interval, word disagreement. Q/DQ graphs run in
ONNX Runtime. A peer that fails costs its own row alone; the exit status is 5 then.
"""

import argparse
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime import quantization as ort
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType
from onnxruntime.quantization.shape_inference import quant_pre_process
from peers import modelopt

from trtasr.bench.paired import paired_differences
from trtasr.errors import BuildError, TrtasrError
from trtasr.network.network import Exported, Files, feeds
from trtasr.pipeline.compile import compile_recipe
from trtasr.pipeline.export import export
from trtasr.pipeline.features import calibration_features
from trtasr.pipeline.job import Options, begin
from trtasr.pipeline.measure import usable_result
from trtasr.recipe import Calibration, Evaluation, Recipe
from trtasr.report.table import align
from trtasr.results import Control, PairedDifference, Prepared, WerResult
from trtasr.values import Array, Example

CALIBRATORS = {
    "ort static, largest": CalibrationMethod.MinMax,
    "ort static, percentile": CalibrationMethod.Percentile,
    "ort static, entropy": CalibrationMethod.Entropy,
}
PEERS = (*CALIBRATORS, "ort dynamic", *modelopt.METHODS)
RECORDINGS, SECONDS = 16, 4.0  # whose tensors ONNX Runtime's calibrators hold all at a time, all of one length
RIGHT = {2, 3, 4, 5}  # columns of figures
HEADER = ("made by", "set", "WER %", "delta", "95 % interval", "disagreement %")
FAILED = "failed"  # in place of figures
QUANTIZERS = {"QuantizeLinear", "DynamicQuantizeLinear"}


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Inputs of one graph, utterance by utterance, as ONNX Runtime's calibrators ask for them."""

    def __init__(self, inputs: Iterator[dict[str, Array]]) -> None:
        self.inputs = inputs

    def get_next(self) -> dict[str, Array] | None:
        """The next utterance; None behind the last."""
        return next(self.inputs, None)


@dataclass(frozen=True)
class Judge:
    """What all rows are judged by.

    Attributes:
        exported: FP32 graphs.
        utterances: evaluation sets.
        settings: how they are scored.
        exact: what FP32 makes of them.
    """

    exported: Exported
    utterances: Sequence[Prepared]
    settings: Evaluation
    exact: WerResult

    def rows(self, name: str, files: Files) -> list[tuple[str, ...]]:
        """The lines of one row; one that says so where nothing was recognized."""
        found = usable_result(self.exported.network, files, self.utterances, self.settings)
        if found is None:
            return [(name, "", "nothing recognized", "", "", "")]
        return lines(name, paired_differences(self.exact, found))


def lines(name: str, differences: Sequence[PairedDifference]) -> list[tuple[str, ...]]:
    """One line per evaluation set, and one for all together."""
    return [
        (
            name,
            Path(item.dataset).stem or "all",
            f"{item.rate:.2f}",
            f"{item.delta:+.2f}",
            f"[{item.interval[0]:+.2f}, {item.interval[1]:+.2f}]",
            f"{item.disagreement:.2f}",
        )
        for item in differences
    ]


def control_line(control: Control, exact: float) -> tuple[str, ...]:
    """The line of our static scales by one calibration, over all sets; the default's are computed at run time."""
    name = f"trtasr, static scales by {control.label}"
    if control.wer is None:
        return (name, "", "nothing recognized", "", "", "")
    return name, "all", f"{control.wer:.2f}", f"{control.wer - exact:+.2f}", "", f"{control.disagreement:.2f}"


def alike(examples: Sequence[Example], frames: int) -> list[Example]:
    """Some recordings of one length and, where a decoder reads them, as many tokens."""
    long = [item for item in examples if item.lengths[0] >= frames][:RECORDINGS] or list(examples)[:1]
    shortest = min(frames, *(int(item.lengths[0]) for item in long))
    said = min(len(item.tokens) if item.tokens is not None else 0 for item in long)
    return [
        Example(
            np.ascontiguousarray(item.features[:, :, :shortest]),
            np.array([shortest], np.int64),
            item.tokens[:said] if item.tokens is not None else None,
        )
        for item in long
    ]


def quantized(peer: str, exported: Exported, examples: Sequence[Example], folder: Path, python: str) -> Files:
    """The graphs of a network as another tool makes them.

    Args:
        peer: one of `PEERS`.
        exported: FP32 graphs.
        examples: real speech, for static scales.
        folder: for the graphs.
        python: path of an interpreter that has ModelOpt, for its rows.

    Raises:
        MissingError: there is no such interpreter. BuildError: ModelOpt failed.
    """
    files = exported.network.files(folder, "peer.onnx")
    for index, (source, file) in enumerate(zip(exported.files, files, strict=True)):
        inputs = feeds(exported.network, exported.files, examples, index)
        if peer in modelopt.METHODS:
            modelopt.quantize(source, file, inputs, modelopt.METHODS[peer], python)
        else:
            by_onnxruntime(peer, source, file, inputs)
    return files


def by_onnxruntime(peer: str, source: Path, file: Path, inputs: Iterator[dict[str, Array]]) -> None:
    """Write one graph as ONNX Runtime's quantizer makes it: weights per channel, all operators that it knows."""
    ready = file.parent / f"ready.{source.name}"
    quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
    if peer in CALIBRATORS:
        ort.quantize_static(
            str(ready),
            str(file),
            Reader(inputs),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CALIBRATORS[peer],
        )
    else:  # unsigned weights: products with signed ones overflow on x86 without VNNI
        ort.quantize_dynamic(str(ready), str(file), per_channel=True, weight_type=QuantType.QUInt8)


def title(peer: str, exported: Exported, recordings: int, files: Files) -> str:
    """What a row is called; it says which graphs the tool left as they were."""
    parts = zip(exported.network.parts, files, strict=True)
    plain = [part.name for part, file in parts if not QUANTIZERS & operators(file)]
    return f"{peer}, {recordings} recordings" + "".join(f", {name} left in FP32" for name in plain)


def operators(file: Path) -> set[str]:
    """Types of the operators in a graph."""
    return {node.op_type for node in onnx.load(file, load_external_data=False).graph.node}


def peer_rows(peer: str, judge: Judge, examples: Sequence[Example], folder: Path, python: str) -> list[tuple[str, ...]]:
    """The lines of one peer; one that says so, with the reason on standard error, where it failed."""
    try:
        files = quantized(peer, judge.exported, examples, folder, python)
        return judge.rows(title(peer, judge.exported, len(examples), files), files)
    except TrtasrError as error:
        print(f"{peer}: {error}", file=sys.stderr)
    except Exception:  # whatever another tool raises
        print(f"{peer}: {traceback.format_exc()}", file=sys.stderr)
    return [(peer, "", FAILED, "", "", "")]


def compared(
    recipe: Recipe, chosen: Sequence[str], scratch: Path, python: str, bundle: Path
) -> Iterator[list[tuple[str, ...]]]:
    """The lines of every row, as they are found: ours, from a bundle that is made, then the peers'."""
    record = compile_recipe(recipe, Options(out=bundle, calib=scratch, recalibrate=True, controls=True))
    rows = {row.target: row for row in record.results}
    for name, row in rows.items():
        if row.differences:
            yield lines(f"trtasr, {name}, no audio", row.differences)
    exact = rows["fp32"].wer
    assert exact, "a manifest was given"
    yield [control_line(control, exact.rate) for control in record.controls]
    job = begin(recipe, Options(out=scratch / "theirs"))
    (raw := scratch / "raw").mkdir()
    exported = export(job.network, job.original, raw)
    judge = Judge(exported, job.utterances, job.recipe.evaluation, exact)
    frames = round(SECONDS * exported.network.frontend.frames_per_second)
    examples = alike(calibration_features("audio", job.recipe, exported).examples(), frames)
    for peer in chosen:
        (folder := scratch / peer.replace(" ", "-")).mkdir()
        yield peer_rows(peer, judge, examples, folder, python)


def given(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    top = argparse.ArgumentParser(prog="peers", description="INT8 by other tools beside ours, on the same speech")
    top.add_argument("model", help="checkpoint")
    top.add_argument("--manifest", required=True, help="evaluation sets, with commas between them")
    top.add_argument("--audio", required=True, help="manifest of the recordings that the peers calibrate on")
    top.add_argument("--only", action="append", choices=PEERS, help="this peer; may be repeated")
    top.add_argument("--modelopt", metavar="PYTHON", default="", help="interpreter of an environment with ModelOpt")
    top.add_argument("--keep", metavar="FOLDER", type=Path, help="keep our bundle there, with its report")
    asked = top.parse_args(arguments)
    known = PEERS if asked.modelopt else [peer for peer in PEERS if peer not in modelopt.METHODS]
    asked.peers = asked.only or known
    if unknown := [peer for peer in asked.peers if peer not in known]:
        top.error(f"--only {unknown[0]!r} needs --modelopt PYTHON (docs/development.md says how to make one)")
    return asked


def recipe_of(asked: argparse.Namespace) -> Recipe:
    """The checkpoint, what the peers hear, and what all are judged on."""
    return Recipe(
        Path(asked.model).stem,
        asked.model,
        calibration=Calibration(manifest=asked.audio),
        evaluation=Evaluation(manifest=tuple(asked.manifest.split(",")), bench_seconds=(2.0,)),
    )


def main(arguments: Sequence[str] | None = None, **settings: Any) -> int:
    """Print the table, row by row, and once more at the end."""
    asked = given(arguments)
    recipe = recipe_of(asked)
    recipe = replace(recipe, **changed(recipe, settings))
    found: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory(prefix="trtasr-peers-") as scratch:
        try:
            if modelopt.METHODS.keys() & set(asked.peers):
                modelopt.check(asked.modelopt)
            for part in compared(
                recipe, asked.peers, Path(scratch), asked.modelopt, asked.keep or Path(scratch) / "ours"
            ):
                found += part
                print(align(part, RIGHT), flush=True)
        except TrtasrError as error:
            print(error, file=sys.stderr)
            return error.exit_code
    print("", align([HEADER, *found], RIGHT), sep="\n")
    if not asked.modelopt:
        print(f"left out, no --modelopt PYTHON: {', '.join(modelopt.METHODS)}")
    return BuildError.exit_code if any(row[2] == FAILED for row in found) else 0


def changed(recipe: Recipe, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Sections of a recipe with other values."""
    return {name: replace(getattr(recipe, name), **values) for name, values in settings.items()}


if __name__ == "__main__":
    sys.exit(main())
