"""A family that nobody foresaw, added from one file: a transducer of three graphs, from checkpoint to plan and WER.

This file is what a newcomer writes: the module, the wiring, the recognizer, and a row in each of the three tables
(`trtasr.network.families`, `trtasr.models.load`, a reader).
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compiling import CHANGES, read, run
from tiny_archive import LETTERS, MODULES, config, write_manifest, write_members
from torch import Tensor, nn

from trtasr.audio.frontend import frames_of
from trtasr.bench.agreement import output_sqnr
from trtasr.checkpoint import nemo
from trtasr.checkpoint.nemo import read_nemo
from trtasr.engine.build import rtx_version
from trtasr.engine.sessions import open_session
from trtasr.graph.export import export_module
from trtasr.models import load
from trtasr.network import families
from trtasr.network.ctc import gaussian, trial
from trtasr.network.network import (
    Described,
    Files,
    Network,
    Original,
    Outputs,
    Part,
    accepted,
    dictated,
    outputs,
    run_part,
)
from trtasr.pipeline.budget import Trial, budget, leave_out
from trtasr.pipeline.compile import compile_recipe
from trtasr.pipeline.export import export
from trtasr.pipeline.features import calibration_features
from trtasr.pipeline.job import Options, wired
from trtasr.pipeline.scales import make_table
from trtasr.quant.synthesize import speech_shaped_noise
from trtasr.recipe import Calibration, EngineShapes, Recipe, override
from trtasr.targets import CPU
from trtasr.text.tokens import Tokenizer
from trtasr.values import Array, CalibrationSet, Example, FloatArray, IntArray

ROWS, WIDTH, MOST_SYMBOLS = 64, 32, 2  # of features, of everything between; per frame
TOKENS_PER_SECOND = 12.0
PARTS = ("encoder", "predictor", "joint")


# the module


class Encoder(nn.Module):
    """Features [B, rows, T] -> [B, T', WIDTH], half as many positions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(ROWS, WIDTH, 3, 2, 1), nn.Linear(WIDTH, WIDTH)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encoded frames and how many of them are valid."""
        heard = torch.arange(features.shape[2], device=features.device) < lengths[:, None]
        found = torch.relu(self.first(features * heard[:, None].to(features.dtype)))
        return torch.relu(self.second(found.transpose(1, 2))), (lengths + 1) // 2


class Predictor(nn.Module):
    """Tokens [B, U] -> states [B, U, WIDTH], each of its own token alone (Ghodsi et al. 2020)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.embed, self.state = nn.Embedding(size + 1, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        """States."""
        return torch.relu(self.state(self.embed(tokens)))


class Joint(nn.Module):
    """Frames and states at the same positions [B, P, WIDTH] -> logits [B, P, V + 1]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.frame, self.state = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, size + 1)

    def forward(self, frames: Tensor, states: Tensor) -> Tensor:
        """Logits; the last is the blank."""
        return self.out(torch.tanh(self.frame(frames) + self.state(states)))


class Toy(nn.Module):
    """All three."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.encoder, self.predictor, self.joint = Encoder(), Predictor(size), Joint(size)


class Stage(nn.Module):
    """One of them, whose exported nodes begin with its name."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self._name = name
        setattr(self, name, getattr(model, name))

    def forward(self, *inputs: Tensor) -> Any:
        """What it computes."""
        return getattr(self, self._name)(*inputs)


# the wiring


def behind(tokens: IntArray | None, size: int, count: int) -> IntArray:
    """What the predictor reads: a blank, then all tokens."""
    given = np.zeros((count, 0), np.int64) if tokens is None else tokens.reshape(count, -1)
    return np.concatenate([np.full((count, 1), size), given], axis=1)


def along(states: Array, frames: int) -> Array:
    """States [B, U, WIDTH] as the text goes on, one per frame [B, T', WIDTH]."""
    return states[:, np.arange(frames) * states.shape[1] // frames]


def toy(described: Described) -> Network:
    """``encoder``; ``predictor``, which does not hear it; ``joint`` of both."""
    front, size = described.frontend, len(described.tokenizer.vocabulary)
    rate = front.frames_per_second / 2
    encoder = Part(
        "encoder",
        judged="encoded",
        counts="positions",
        inputs=lambda example, _: {"features": example.features, "lengths": example.lengths},
        rate=front.frames_per_second,
        steps=lambda seconds: (frames_of(seconds, front), 1),
    )
    predictor = Part(
        "predictor",
        judged="predicted",
        inputs=lambda example, _: {"tokens": behind(example.tokens, size, len(example.lengths))},
        rate=TOKENS_PER_SECOND,
        steps=lambda seconds: (1, round(TOKENS_PER_SECOND * seconds)),
    )
    joint = Part(
        "joint",
        judged="logits",
        counts="positions",
        inputs=lambda _, seen: {
            "frames": seen["encoded"],
            "states": along(seen["predicted"], seen["encoded"].shape[1]),
        },
        rate=rate,
        steps=lambda seconds: (1, round(rate * seconds)),
    )

    @contextmanager
    def open_engine(files: Files, threads: int = 0, timed: bool = False) -> Iterator[ToyRecognizer]:
        yield ToyRecognizer([open_session(file, threads, timed=timed) for file in files], described.tokenizer)

    return Network(described, (encoder, predictor, joint), "frames", open_engine)


@dataclass
class ToyRecognizer:
    """The most likely token of every frame, at most so many in one."""

    sessions: list[Any]
    tokenizer: Tokenizer
    cut: tuple[bool, ...] = ()
    captured = False

    def use_graphs(self, _wanted: bool) -> None:
        """There are none."""

    def run(self, features: FloatArray, lengths: IntArray) -> tuple[Array, IntArray]:
        """Token ids [B, L] and how many of them are valid."""
        encoded = run_part(self.sessions[0], {"features": features, "lengths": lengths})
        pairs = zip(encoded["encoded"], encoded["positions"], strict=True)
        said = [self.said(frames[: int(count)]) for frames, count in pairs]
        tokens = np.zeros((len(said), max(1, *map(len, said))), np.int64)
        for row, ids in zip(tokens, said, strict=True):
            row[: len(ids)] = ids
        return tokens, np.array(list(map(len, said)))

    def said(self, frames: FloatArray) -> list[int]:
        """Tokens of one utterance [T', WIDTH]."""
        blank, found = len(self.tokenizer.vocabulary), []
        state = self.state(blank)
        for frame in frames:
            for _ in range(MOST_SYMBOLS):
                logits = run_part(self.sessions[2], {"frames": frame[None, None], "states": state})["logits"]
                if (token := int(logits.argmax())) == blank:
                    break
                found.append(token)
                state = self.state(token)
        return found

    def state(self, token: int) -> Array:
        """Of the predictor behind a token."""
        return run_part(self.sessions[1], {"tokens": np.array([[token]])})["predicted"]

    def decode(self, found: Array, counts: IntArray) -> list[str]:
        """Texts."""
        return [self.tokenizer.decode(row[:count].tolist()) for row, count in zip(found, counts, strict=True)]

    def example(self, features: FloatArray, lengths: IntArray) -> Example:
        """One utterance with what is said to it."""
        found, counts = self.run(features, lengths)
        return Example(features, lengths, found[0, : int(counts[0])])

    def doubt(self, _seconds: float) -> str:
        """None."""
        return ""

    def whole_run(self, features: FloatArray, _seconds: float) -> "ToyRun":
        """All of it."""
        return ToyRun(self, features)


@dataclass(frozen=True)
class ToyRun:
    """One benchmarked run."""

    recognizer: ToyRecognizer
    features: FloatArray
    tokens: int = 0

    def __call__(self) -> None:
        """Once."""
        self.recognizer.run(self.features, np.full(len(self.features), self.features.shape[2]))

    def encoder_ms(self, _runs: int) -> float:
        """Not told."""
        return 0.0


@dataclass(frozen=True)
class Shapes:
    """Shapes of one plan."""

    ranges: dict[str, list[list[int]]]

    def shapes(self) -> dict[str, list[list[int]]]:
        """Input name -> [min, opt, max] shape."""
        return self.ranges


def toy_original(model: nn.Module, network: Network) -> Original:
    """What the module is to its network."""
    described = network.described
    size = len(described.tokenizer.vocabulary)

    def export(folder: Path) -> None:
        tokens, frames = torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 5, WIDTH)
        heard = torch.zeros(2, ROWS, 64), torch.tensor([64, 40])
        batch, places = {0: "batch"}, {0: "batch", 1: "places"}
        stages = {
            "encoder": (
                heard,
                {"features": {0: "batch", 2: "time"}, "lengths": batch},
                {"encoded": places, "positions": batch},
            ),
            "predictor": ((tokens,), {"tokens": places}, {"predicted": places}),
            "joint": ((frames, frames), {"frames": places, "states": places}, {"logits": places}),
        }
        for file, (name, (given, inputs, made)) in zip(network.files(folder), stages.items(), strict=True):
            export_module(Stage(model, name), given, file, inputs, made)

    @torch.no_grad()
    def reference(example: Example, dtype: torch.dtype) -> Outputs:
        whole: Any = copy.deepcopy(model).to(dtype)
        encoded, positions = whole.encoder(
            torch.from_numpy(example.features).to(dtype), torch.from_numpy(example.lengths)
        )
        states = whole.predictor(torch.from_numpy(behind(example.tokens, size, len(example.lengths)))).numpy()
        logits = whole.joint(encoded, torch.from_numpy(along(states, encoded.shape[1])))
        return {"logits": logits.numpy(), "positions": positions.numpy()}

    def shapes(engine: EngineShapes) -> tuple[Shapes, ...]:
        heard = accepted(engine, described).shapes()
        (low, *_), (usual, *_), (most, _, longest) = heard["features"]
        each = [[low, 1], [usual, 1], [most, longest]]
        wide = [[*shape, WIDTH] for shape in each]
        return Shapes(heard), Shapes({"tokens": each}), Shapes({"frames": wide, "states": wide})

    def synthetic(calibration: Calibration) -> CalibrationSet:
        generator = torch.Generator().manual_seed(calibration.seed)
        shape = calibration.batch_size, ROWS, frames_of(calibration.seconds, described.frontend)
        batches = tuple(speech_shaped_noise(shape, generator).numpy() for _ in range(calibration.batches))
        lengths = np.full(shape[0], shape[2])
        return CalibrationSet(batches, (lengths,) * len(batches), "synthetic", calibration.seed)

    def spoken(files: Files, features: CalibrationSet) -> CalibrationSet:
        said = dictated(network, files, features.examples())
        return replace(features, tokens=tuple(item.tokens for item in said if item.tokens is not None))

    def unheard(calibration: Calibration, _engine: EngineShapes) -> tuple[FloatArray, IntArray]:
        made = synthetic(replace(calibration, batches=1, seed=1))
        return made.batches[0], made.lengths[0]

    return Original(
        export=export,
        reference=reference,
        trial=replace(trial(described.frontend), tokens=np.arange(12).reshape(2, 6)),
        tolerance=(1e-4, 1e-3),
        shapes=shapes,
        synthetic=synthetic,
        noise=lambda calibration: gaussian(calibration, described.frontend),
        spoken=spoken,
        unheard=unheard,
        block=lambda layer: layer.split("/")[1],
    )


# the three rows


@pytest.fixture
def registered(monkeypatch):
    """The family is known."""
    monkeypatch.setitem(families.FAMILIES, "toy", families.Wiring(toy, toy_original))
    monkeypatch.setitem(load.FAMILIES, "toy", lambda section: Toy(len(section["decoder"]["vocabulary"])))
    monkeypatch.setitem(nemo.FAMILIES, "ToyEncoder", "toy")


@pytest.fixture
def archive(tmp_path):
    """A checkpoint of random weights, and speech."""
    torch.manual_seed(0)
    model = Toy(len(LETTERS))
    with torch.no_grad():
        model.joint.frame.weight.mul_(6)
        model.joint.out.weight.mul_(6)
    sections = config() | {"encoder": {"_target_": MODULES + "ToyEncoder", "feat_in": ROWS}}
    write_manifest(tmp_path)
    return write_members(tmp_path / "toy.nemo", sections, model.state_dict())


@pytest.fixture
def compiled(registered, archive, tmp_path):
    """The record of a compile, and the bundle."""
    target = "auto" if rtx_version() else "cpu"
    changes = [*CHANGES, f"evaluation.manifest={tmp_path / 'manifest.json'}", f"engine.target={target}"]
    recipe = override(Recipe("toy", str(archive)), changes)
    return compile_recipe(recipe, Options(tmp_path / "out", controls=True)), tmp_path / "out"


def test_a_new_family_is_compiled_measured_and_used(compiled, tmp_path):
    record, out = compiled
    assert record.problems == ()
    sidecar = read(out, "bundle.json")
    assert (sidecar["family"], sidecar["architecture"]) == ("toy", "Toy")
    assert 0 < sidecar["parity"] < 1e-4
    assert [item["tensor"] for item in sidecar["comparison"]["tensors"]] == ["encoded", "predicted", "logits"]
    assert all(item["sqnr_db"] > 25 for item in sidecar["comparison"]["tensors"])
    assert [item["wer"] is not None for item in sidecar["controls"]] == [True] * 3
    for target, result in sidecar["results"].items():
        assert result["wer"] > 0
        assert (result["p50_ms"] is None) == (target == "t4-rtx")
    for target in sidecar["engines"]:
        decisions = read(out, "scales.json")["decisions"][target]
        assert {item["node"].split("/")[1] for item in decisions if item["quantized"]} == set(PARTS)
        rows = [row for row in read(out, "layers.json")[target] if row["int8"] and row["macs"]]
        assert {name.split("/")[1] for row in rows for name in row["onnx_nodes"]} >= set(PARTS)
    files = read(out, "bundle.json")["files"]
    assert {f"{part}.fp32.onnx" for part in PARTS} | {f"cpu/{part}.int8.onnx" for part in PARTS} <= files.keys()
    if rtx_version():
        assert {f"{part}.qdq.onnx" for part in PARTS} | {f"t4-rtx/{part}.plan" for part in PARTS} <= files.keys()

    said = [row["pred_text"] for row in read(out, "wer.json")["cpu"]["utterances"]]
    assert len(set(said)) > 1
    code, printed = run("transcribe", out, tmp_path / "0.wav", "--target", "cpu", "-q")
    assert (code, printed.strip()) == (0, said[0].strip())
    assert run("bench", out, "--seconds", "0.5", "-q")[0] == 0
    assert run("compare", out, "--target", "cpu", "-o", tmp_path / "again", "-q")[0] == 0
    assert run("inspect", out, "--target", "cpu")[0] == 0


def test_its_layers_are_corrected_and_kept_as_those_of_any_other(registered, archive, tmp_path):
    network, original = wired(read_nemo(archive))
    graphs = export(network, original, tmp_path)
    recipe = Recipe("toy", "toy", calibration=Calibration(batches=1, batch_size=2, seconds=1.0))
    features = calibration_features("synthetic", recipe, graphs)
    assert all(len(tokens) for tokens in features.tokens)
    table = make_table(graphs, features, replace(recipe.quantization, correction="fade"), {})
    assert {name.split("/")[1] for name in table.alphas} == set(PARTS)
    wanted = replace(recipe, evaluation=replace(recipe.evaluation, min_sqnr=45.0))
    trial = Trial(graphs, table, wanted, CPU, features.examples())
    left = tuple(leave_out(trial, [budget(wanted, graphs, trial.examples, ())]).rules)
    assert 0 < len(left) < len(table.alphas)
    (kept := tmp_path / "kept").mkdir()
    found = outputs(network, trial.written(left, kept), trial.examples)
    assert output_sqnr(outputs(network, graphs.files, trial.examples), found) >= 45
