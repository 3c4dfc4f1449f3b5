"""Settings of a Hugging Face folder that are not used here: each is named, unless it changes no transcript."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from trtasr.errors import first_few

PLAIN = re.compile(r"\w{1,60}", re.ASCII)
LISTED = 12
# How transformers generates otherwise than greedily without timestamps -> values with which it does not.
# From ``transformers/generation/configuration_utils.py`` and ``models/whisper/generation_whisper.py``.
DECODING: Mapping[str, tuple[Any, ...]] = {
    "bad_words_ids": (),
    "begin_forced_ids": (),
    "compression_ratio_threshold": (),
    "condition_on_prev_tokens": (False,),
    "constraints": (),
    "decoder_no_repeat_ngram_size": (0,),
    "diversity_penalty": (0,),
    "do_sample": (False,),
    "dola_layers": (),
    "early_stopping": (False, True),  # of beams
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "guidance_scale": (1,),
    "length_penalty": (1,),
    "logprob_threshold": (),
    "max_time": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "min_p": (0,),
    "no_repeat_ngram_size": (0,),
    "no_speech_threshold": (0.6,),  # Whisper's own, which is used here
    "num_beam_groups": (1,),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "penalty_alpha": (0,),
    "prompt_ids": (),
    "remove_invalid_values": (False,),
    "renormalize_logits": (False, True),
    "repetition_penalty": (1,),
    "return_timestamps": (False,),
    "return_token_timestamps": (False,),
    "sequence_bias": (),
    "stop_strings": (),
    "suppress_blank": (False,),
    "temperature": (0, 1),
    "top_k": (0, 1, 50),
    "top_p": (1,),
    "typical_p": (1,),
    "watermarking_config": (),
}
USED = frozenset(
    re.findall(
        r"\w+",
        """
decoder_start_token_id eos_token_id forced_decoder_ids suppress_tokens begin_suppress_tokens max_length
max_new_tokens language task lang_to_id task_to_id is_multilingual no_timestamps_token_id
""",
    )
)
# on the text of one short recording, decoded greedily
WITHOUT_EFFECT = frozenset(
    re.findall(
        r"\w+",
        """
_from_model_config alignment_heads assistant_confidence_threshold assistant_early_exit assistant_lookbehind
bos_token_id cache_config cache_implementation compile_config disable_compile generation_kwargs is_assistant
low_memory max_initial_timestamp_index max_matching_ngram_size median_filter_width num_assistant_tokens
num_assistant_tokens_schedule output_attentions output_hidden_states output_logits output_scores pad_token_id
prefill_chunk_size prev_sot_token_id prompt_condition_type prompt_lookup_num_tokens return_dict_in_generate
return_legacy_cache return_segments target_lookbehind token_healing transformers_version use_cache
""",
    )
)
# used, refused where they differ, derived from others, or of no effect
FRONTEND = frozenset(
    re.findall(
        r"\w+",
        """
auto_map chunk_length device dither do_normalize feature_extractor_type feature_size hop_length mel_filters n_fft
n_samples nb_max_frames padding padding_side padding_value processor_class return_attention_mask sampling_rate
tokenizer_class transformers_version _processor_class
""",
    )
)


def ignored_decoding(settings: Mapping[str, Any]) -> list[str]:
    """Settings of ``generation_config.json`` that would change what transformers writes, and do not here."""
    known = USED | WITHOUT_EFFECT
    return [written(key, value) for key, value in settings.items() if key not in known and not neutral(key, value)]


def ignored_in_config(config: Mapping[str, Any]) -> list[str]:
    """The same for a folder without that file, whose ``config.json`` may hold them."""
    return ignored_decoding({key: config[key] for key in DECODING if key in config})


def ignored_frontend(settings: Mapping[str, Any]) -> list[str]:
    """Settings of ``preprocessor_config.json`` that are not known here."""
    return [written(key, value) for key, value in settings.items() if key not in FRONTEND and not neutral(key, value)]


def neutral(key: str, value: Any) -> bool:
    """Whether a value changes nothing: null, empty, or the one that greedy decoding stands for."""
    return value is None or value in ([], {}, "") or value in DECODING.get(key, (False,))


def written(key: str, value: Any) -> str:
    """``key = value``, short and without control characters."""
    return f"{key if PLAIN.fullmatch(key) else repr(key)[:60]} = {value!r:.40}"


def told(found: Mapping[str, Iterable[str]]) -> str:
    """``file: settings; file: settings``, the first dozen of each; empty where there are none."""
    return "; ".join(f"{file}: {first_few(list(settings), LISTED)}" for file, settings in found.items() if settings)
