"""Hugging Face folders read without transformers: Whisper and Moonshine.

A folder may come from anywhere, so nothing in it is trusted: files are read by plain names, every size is bounded, and
weights are safetensors, which hold no code.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trtasr.audio.frontend import Frontend
from trtasr.audio.log_mel import LogMelConfig
from trtasr.audio.waveform import WaveformConfig
from trtasr.checkpoint.checkpoint import Checkpoint
from trtasr.checkpoint.folder import Folder, integer, section
from trtasr.checkpoint.formats import ADAPTER, refuse_adapter, refuse_weights
from trtasr.checkpoint.generation import FILE as GENERATION
from trtasr.checkpoint.generation import read_generation
from trtasr.checkpoint.huggingface_tokenizer import MAX_VOCABULARY, read_tokenizer
from trtasr.checkpoint.ignored import ignored_decoding, ignored_frontend, ignored_in_config, told
from trtasr.checkpoint.moonshine_rate import tokens_per_second
from trtasr.checkpoint.safetensors_weights import read_weights
from trtasr.checkpoint.sizes import check_sizes
from trtasr.errors import CheckpointError

logger = logging.getLogger(__name__)

CONFIG, PREPROCESSOR, PROCESSOR = "config.json", "preprocessor_config.json", "processor_config.json"
TARGETS = {"whisper": "WhisperForConditionalGeneration", "moonshine": "MoonshineForConditionalGeneration"}
SUPPORTED = f"use a folder of {' or '.join(TARGETS.values())}, or a .nemo archive of a CTC model"
FRONTEND_KEYS = {
    "sampling_rate": "sample_rate",
    "feature_size": "features",
    "n_fft": "n_fft",
    "hop_length": "hop_length",
}
# preprocessor settings that would change the features: only these values are computed
FIXED: Mapping[str, tuple[Any, ...]] = {
    "do_normalize": (False, None),
    "dither": (0, None),
    "padding_value": (0, None),
    "padding_side": ("right", None),
}


def read_huggingface(path: Path) -> Checkpoint:
    """Read a folder as ``save_pretrained`` writes it.

    Raises:
        CheckpointError: missing, damaged, untrustworthy or unsupported; names the file or key.
    """
    folder = Folder(path)
    if folder.has(ADAPTER):
        refuse_adapter(path, folder.json(ADAPTER).get("base_model_name_or_path"))
    if not folder.has(CONFIG):
        refuse_weights(path, folder.names())
        raise CheckpointError(f"{path}: a folder without {CONFIG}", where_it_is(path))
    config = folder.json(CONFIG)
    if config.get("model_type") is None:  # CTranslate2 has a config.json, too
        refuse_weights(path, folder.names())
    try:
        family = model_family(config)
        size = integer(config, "vocab_size", CONFIG, (2, MAX_VOCABULARY))
        weights = read_weights(folder)
        check_sizes(config, weights)
        tokenizer = read_tokenizer(folder, size)
        preprocessor, file = read_preprocessor(folder), folder.optional(GENERATION)
        rate = tokens_per_second(folder, file or {}, config) if family == "moonshine" else 0.0
        checkpoint = Checkpoint(
            family=family,
            target=TARGETS[family],
            config=config,
            weights=weights,
            tokenizer=tokenizer,
            frontend=read_waveform(preprocessor) if family == "moonshine" else read_log_mel(config, preprocessor),
            generation=read_generation(family, config, file, tokenizer.vocabulary, rate),
            sha256=folder.sha256(),
            path=path,
        )
        decoding = ignored_in_config(config) if file is None else ignored_decoding(file)
        found = {CONFIG if file is None else GENERATION: decoding, PREPROCESSOR: ignored_frontend(preprocessor)}
        if listed := told(found):
            logger.warning("%s: decoding is greedy, without timestamps; these settings are not used: %s", path, listed)
        return checkpoint
    except CheckpointError as error:
        named = error.problem.startswith(str(path))
        raise CheckpointError(error.problem if named else f"{path}: {error.problem}", error.repair) from error


def where_it_is(path: Path) -> str:
    """Advice for a folder that is no checkpoint: the snapshot or the archive inside it, where there is one."""
    inside = [*(found.parent for found in path.glob(f"snapshots/*/{CONFIG}")), *path.glob("*.nemo")]
    if inside:
        return f"give {sorted(inside)[0]}"
    return "give the folder that holds config.json and model.safetensors, or a .nemo archive"


def model_family(config: Mapping[str, Any]) -> str:
    """Family of a supported model.

    Raises:
        CheckpointError: saying what the model is and what is supported.
    """
    family, architectures = config.get("model_type"), config.get("architectures") or []
    if not isinstance(family, str) or family not in TARGETS:
        raise CheckpointError(f"{CONFIG}: model_type {family!r:.80} is not supported", SUPPORTED)
    known = (TARGETS[family], TARGETS[family].replace("ForConditionalGeneration", "Model"))
    if not isinstance(architectures, list) or not all(name in known for name in architectures):
        raise CheckpointError(f"{CONFIG}: architectures {architectures!r:.80} is not supported", SUPPORTED)
    if config.get("quantization_config"):
        raise CheckpointError(
            f"{CONFIG}: quantization_config: its weights are quantized already",
            "use the floating-point model that it was made from",
        )
    return family


def read_preprocessor(folder: Folder) -> Mapping[str, Any]:
    """Front-end parameters: a file of their own, or, since transformers 5, a part of ``processor_config.json``.

    Raises:
        CheckpointError: a setting that this front-end cannot honour.
    """
    found: Mapping[str, Any] = folder.optional(PREPROCESSOR) or {}
    if not found and folder.has(PROCESSOR):
        found = section(folder.json(PROCESSOR), "feature_extractor", PROCESSOR)
    for key, values in FIXED.items():
        if found.get(key) not in values:
            raise CheckpointError(f"{PREPROCESSOR}: {key} is {found[key]!r:.80}", f"only {values[0]!r} is supported")
    return found


def read_waveform(preprocessor: Mapping[str, Any]) -> Frontend:
    """Moonshine's front-end, checked.

    Raises:
        CheckpointError: naming the key.
    """
    config = WaveformConfig(sample_rate=preprocessor.get("sampling_rate", 16000))
    config.check()
    return config


def read_log_mel(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> Frontend:
    """Whisper's front-end, checked against the model.

    ``padding`` is transformers' argument of the same name: ``max_length`` (its default) pads audio to
    ``chunk_length`` seconds, ``longest`` leaves it as long as it is.

    Raises:
        CheckpointError: naming the key.
    """
    given = {ours: preprocessor[key] for key, ours in FRONTEND_KEYS.items() if preprocessor.get(key) is not None}
    found = LogMelConfig(**{"features": config.get("num_mel_bins"), **given})
    found.check()
    if found.features != config.get("num_mel_bins"):
        raise CheckpointError(
            f"{PREPROCESSOR}: feature_size is {found.features}, num_mel_bins of {CONFIG} is "
            f"{config.get('num_mel_bins')!r:.80}",
            "correct the one that is wrong",
        )
    padding = preprocessor.get("padding") or "max_length"
    if padding not in ("max_length", "longest"):
        raise CheckpointError(f"{PREPROCESSOR}: padding is {padding!r:.80}", "use max_length or longest")
    return found if padding == "longest" else padded(found, config, preprocessor)


def padded(found: LogMelConfig, config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> LogMelConfig:
    """The front-end with the length that audio is padded to: all positions of the encoder, each of two frames.

    Raises:
        CheckpointError: ``chunk_length`` is another length.
    """
    frames = 2 * integer(config, "max_source_positions", CONFIG, (1, 2**16))
    seconds = preprocessor.get("chunk_length", frames * found.hop_length // found.sample_rate)
    result = LogMelConfig(found.sample_rate, found.features, found.n_fft, found.hop_length, seconds)
    result.check()
    if not seconds or seconds * found.sample_rate // found.hop_length != frames:
        raise CheckpointError(
            f"{PREPROCESSOR}: chunk_length {seconds} s is not what max_source_positions of {CONFIG} "
            f"has, {frames / found.frames_per_second:g} s",
            "correct the one that is wrong",
        )
    return result
