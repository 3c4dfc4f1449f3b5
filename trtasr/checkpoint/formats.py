"""What a file or a folder of another toolkit is, and what makes a checkpoint of it that can be read here.

Told by names and first bytes alone: pickled files can run code when they are read, so none is.
"""

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from trtasr.errors import CheckpointError
from trtasr.files.read import regular_content

HEAD = 512  # bytes that tell a format
ORIGINAL = (
    "there is no way back from it: use the checkpoint that it was made from, for instance the folder "
    "openai/whisper-tiny of the Hugging Face Hub, or a .nemo archive"
)
CONVERT = (
    "from transformers import AutoModelForSpeechSeq2Seq as Model, AutoProcessor as Processor; "
    "Model.from_pretrained({source!r}{more}).save_pretrained({out!r}, safe_serialization=True); "
    "Processor.from_pretrained({source!r}).save_pretrained({out!r})"
)
MERGE = (
    "from peft import PeftModel as Adapted; "
    "from transformers import AutoModelForSpeechSeq2Seq as Model, AutoProcessor as Processor; "
    "merged = Adapted.from_pretrained(Model.from_pretrained({base!r}), {source!r}).merge_and_unload(); "
    "merged.save_pretrained({out!r}); Processor.from_pretrained({base!r}).save_pretrained({out!r})"
)
OPENAI = re.compile(r"(tiny|base|small|medium|large|turbo)(\.en|-v\d+(-turbo)?)?")
ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Format:
    """A format that is not read here.

    Attributes:
        name: in words.
        suffixes: of file names.
        magic: bytes and their place in the file, any of which tells it.
    """

    name: str
    suffixes: tuple[str, ...] = ()
    magic: tuple[tuple[int, bytes], ...] = ()


PYTORCH = Format("a pickled PyTorch file", (".pt", ".pth", ".bin"), ((0, b"\x80\x02"),))
LIGHTNING = Format("a checkpoint of PyTorch Lightning", (".ckpt",))
TENSORFLOW = Format("weights of TensorFlow (HDF5)", (".h5", ".hdf5"), ((0, b"\x89HDF\r\n\x1a\n"),))
FLAX = Format("weights of Flax", (".msgpack",))
FRAMEWORKS = {TENSORFLOW: "transformers 4 and tensorflow", FLAX: "transformers 4 and flax"}  # 5 reads neither
BUILT = (
    Format("a GGUF file (llama.cpp, whisper.cpp)", (".gguf",), ((0, b"GGUF"),)),
    Format("a GGML file (whisper.cpp)", (".ggml",), ((0, b"lmgg"), (0, b"tjgg"), (0, b"fmgg"))),
    Format("a CTranslate2 model (faster-whisper)", (), ((6, b"WhisperSpec"), (6, b"Wav2Vec2"))),
    Format("an ONNX graph", (".onnx", ".ort")),
    Format("a TensorRT plan", (".plan", ".engine", ".trt"), ((0, b"ptrt"), (0, b"ftrt"))),
    Format("a TensorFlow Lite model", (".tflite",), ((4, b"TFL3"),)),
    Format("a Core ML model", (".mlmodel",)),
    Format("weights of MLX or NumPy", (".npz",)),
)
# by first bytes before names: ``ggml-tiny.bin`` and CTranslate2's ``model.bin`` have the suffix of PyTorch's
ORDER = (*BUILT, *FRAMEWORKS, LIGHTNING, PYTORCH)
PREFERRED = (PYTORCH, *FRAMEWORKS, LIGHTNING, *BUILT)  # of several files in a folder: the one that converts best


def format_of(path: Path) -> Format | None:
    """Format of a file, by its first bytes, else by its name; None for any other file, or one that cannot be read."""
    try:
        head = regular_content(path, HEAD) or b""
    except (OSError, ValueError):
        return None
    told = [kind for kind in ORDER if begins(head, kind)]
    named = [kind for kind in ORDER if path.suffix.lower() in kind.suffixes]
    return next(iter((*(kind for kind in told if kind is not PYTORCH), *named, *told)), None)


def begins(head: bytes, kind: Format) -> bool:
    """Whether the first bytes of a file are those of a format."""
    return any(head[place : place + len(magic)] == magic for place, magic in kind.magic)


def refuse_file(path: Path) -> None:
    """Refuse a file of another toolkit, and say what makes a checkpoint of it.

    Raises:
        CheckpointError: naming the format; nothing for other files, NeMo archives among them.
    """
    kind = format_of(path)
    if kind is not None and path.suffix != ".nemo":
        raise CheckpointError(f"{path}: {kind.name}, which is not read here", converter(path, kind))


def converter(path: Path, kind: Format) -> str:
    """Advice: what makes a folder or an archive of a file."""
    if kind in BUILT:
        return ORIGINAL
    if kind in FRAMEWORKS or path.suffix == ".bin":
        where = f"{FRAMEWORKS[kind]} are" if kind in FRAMEWORKS else "transformers is"
        return f"if you trust this folder, convert it where {where} installed: {conversion(path.parent, kind)}"
    if kind is PYTORCH and OPENAI.fullmatch(path.stem):
        return (
            f"if you trust it, convert OpenAI's Whisper where transformers is installed: python -m transformers"
            f".models.whisper.convert_openai_to_hf --checkpoint_path {shlex.quote(str(path))} "
            f"--pytorch_dump_folder_path whisper-{path.stem} --convert_preprocessor True"
        )
    return (
        "if you trust it, load it with the toolkit that wrote it and save it again: save_to('x.nemo') of NeMo "
        "(a .ckpt with load_from_checkpoint before), or save_pretrained of transformers"
    )


def conversion(folder: Path, kind: Format) -> str:
    """The command that writes a folder of transformers again, with safetensors."""
    source = str(folder.resolve())
    more = {TENSORFLOW: ", from_tf=True", FLAX: ", from_flax=True"}.get(kind, "")
    return "python -c " + shlex.quote(CONVERT.format(source=source, out=f"{source}-safetensors", more=more))


def refuse_weights(folder: Path, names: Iterable[str]) -> None:
    """Refuse a folder whose weights are in another format.

    Args:
        folder: as given.
        names: of its files.

    Raises:
        CheckpointError: naming the format and the command that converts it; nothing where there are no weights.
    """
    kinds = {name: kind for name in names if (kind := format_of(folder / name))}
    best = next((kind for kind in PREFERRED if kind in kinds.values()), None)
    if best is None:
        return
    listed = [name for name, kind in kinds.items() if kind is best]
    pickled = f"weights are pickled only ({', '.join(listed)[:200]}): reading them can run code"
    problem = pickled if best is PYTORCH else f"{', '.join(listed)[:200]}: {best.name}, which is not read here"
    raise CheckpointError(f"{folder}: {problem}", converter(folder / listed[0], best))


def refuse_adapter(folder: Path, base: object) -> None:
    """Refuse a folder of PEFT, which holds changes to another model's weights only.

    Args:
        folder: as given.
        base: ``base_model_name_or_path`` of its adapter_config.json.

    Raises:
        CheckpointError: naming the model and the command that merges both.
    """
    source = str(folder.resolve())
    model = base if isinstance(base, str) and base else "THE-MODEL-IT-WAS-TRAINED-ON"
    command = "python -c " + shlex.quote(MERGE.format(source=source, out=f"{source}-merged", base=model))
    raise CheckpointError(
        f"{folder}: an adapter (PEFT, LoRA) of {model:.200}, no whole model",
        f"merge it where peft and transformers are installed: {command}",
    )
