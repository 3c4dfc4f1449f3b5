"""Write a Hugging Face folder of a published size with random weights.

    python tests/golden/write_published.py OUT SIZE

SIZE is one of whisper-tiny, whisper-tiny.en, whisper-base, whisper-small, whisper-medium, whisper-large-v3,
whisper-large-v3-turbo, moonshine-tiny, moonshine-base. Weights are normal numbers of standard deviation
1 / sqrt(inputs) in float16, so that activations keep their size from layer to layer; token strings are made up. For
compile time, memory, plan size and the number of INT8 layers; the transcripts mean nothing.
"""

import json
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent)]

from golden import moonshine_configs, whisper_configs  # noqa: E402

from trtasr.models.load import FAMILIES  # noqa: E402

SIZES = {
    f"{family}-{size}": config
    for family, sizes in (("whisper", whisper_configs.PUBLISHED), ("moonshine", moonshine_configs.PUBLISHED))
    for size, config in sizes.items()
}


def random_weight(name, shape, generator):
    """Norms near one, biases near zero, matrices that keep the size of what they multiply."""
    drawn = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        return 0.02 * drawn + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
    scale = 0.02 if "embed" in name else 1 / math.sqrt(math.prod(shape[1:]))
    return scale * drawn


def special_tokens(config):
    """Token strings behind the text tokens, as Whisper has them in order, and what generation needs of them."""
    first = config["eos_token_id"]
    languages = config["vocab_size"] - first - 1501 - 8  # without end, start, tasks, previous, no speech ...
    names = [
        "<|endoftext|>",
        "<|startoftranscript|>",
        *(f"<|l{index}|>" for index in range(languages)),
        "<|translate|>",
        "<|transcribe|>",
        "<|startoflm|>",
        "<|startofprev|>",
        "<|nospeech|>",
        "<|notimestamps|>",
        *(f"<|{index / 50:.2f}|>" for index in range(1501)),
    ]
    names[2] = "<|en|>"
    ids = {name: first + index for index, name in enumerate(names)}
    rules = {
        "decoder_start_token_id": first + 1,
        "eos_token_id": first,
        "pad_token_id": first,
        "max_length": 448,
        "is_multilingual": True,
        "lang_to_id": {"<|en|>": ids["<|en|>"]},
        "language": "<|en|>",
        "task": "transcribe",
        "task_to_id": {"transcribe": ids["<|transcribe|>"]},
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "suppress_tokens": [],
        "begin_suppress_tokens": [first],
    }
    return ids, rules


def write(out, size):
    """Write the folder."""
    config = SIZES[size]
    out.mkdir(parents=True)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in FAMILIES[config["model_type"]](config).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    weights = {f"model.{name}": random_weight(name, shape, generator).half() for name, shape in shapes.items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    files = {"config.json": config}
    if config["model_type"] == "whisper":
        special, files["generation_config.json"] = special_tokens(config)
        vocabulary = {f"\u0120w{index}": index for index in range(config["eos_token_id"])} | special
        spelling = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
        files["preprocessor_config.json"] = {"feature_size": config["num_mel_bins"], "chunk_length": 30}
    else:
        vocabulary = {f"\u2581w{index}": index for index in range(config["vocab_size"])}
        spelling = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
    model = {"type": "BPE", "vocab": vocabulary, "merges": []}
    files["tokenizer.json"] = {"version": "1.0", "added_tokens": [], "decoder": spelling, "model": model}
    for name, content in files.items():
        (out / name).write_text(json.dumps(content))


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2])
