"""What both sides of the Whisper comparison share: configurations, seeded weights, features, tokens."""

import re

import numpy as np
from golden import cases


def config(**options: object) -> dict:
    """``config.json`` of a small multilingual Whisper."""
    return {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        "vocab_size": 97,
        "num_mel_bins": 16,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 64,
        "max_source_positions": 40,
        "max_target_positions": 24,
        "activation_function": "gelu",
        "scale_embedding": False,
        "decoder_start_token_id": START,
        "bos_token_id": END,
        "eos_token_id": END,
        "pad_token_id": END,
        **options,
    }


def published(width: int, layers: tuple[int, int], heads: int, vocabulary: int = 51865, rows: int = 80) -> dict:
    """A size that OpenAI publishes, in the form of its ``config.json``."""
    end = 50256 if vocabulary == 51864 else 50257
    return config(
        vocab_size=vocabulary,
        num_mel_bins=rows,
        d_model=width,
        encoder_layers=layers[0],
        decoder_layers=layers[1],
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        max_source_positions=1500,
        max_target_positions=448,
        decoder_start_token_id=end + 1,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )


END, START, LANGUAGES, TRANSLATE, TRANSCRIBE, NO_SPEECH, NO_TIMESTAMPS = 88, 89, (90, 91, 92), 93, 94, 95, 96
SPECIAL = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|de|>",
    "<|haw|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)
GENERATION = {
    "decoder_start_token_id": START,
    "bos_token_id": END,
    "eos_token_id": END,
    "pad_token_id": END,
    "max_length": 17,
    "is_multilingual": True,
    "lang_to_id": dict(zip(SPECIAL[2:5], LANGUAGES, strict=True)),
    "task_to_id": {"translate": TRANSLATE, "transcribe": TRANSCRIBE},
    "no_timestamps_token_id": NO_TIMESTAMPS,
    "return_timestamps": False,
}
ENGLISH = {key: GENERATION[key] for key in GENERATION if key not in ("lang_to_id", "task_to_id")}
# name -> generation_config.json: what is named and what is found, and lists that change what is chosen
GENERATIONS = {
    "named": GENERATION | {"language": "german", "task": "translate"},
    "detected": GENERATION | {"task": "transcribe"},
    "forced": GENERATION | {"forced_decoder_ids": [[1, None], [2, TRANSCRIBE]]},
    "forced_language": GENERATION | {"forced_decoder_ids": [[1, 92], [2, TRANSLATE], [3, NO_TIMESTAMPS]]},
    "suppressed": GENERATION
    | {
        "language": "<|en|>",
        "task": "transcribe",
        "suppress_tokens": [*range(20, 97)],
        "begin_suppress_tokens": [*range(10)],
    },
    "ended": GENERATION | {"language": "en", "eos_token_id": [4, 6]},
    "english": ENGLISH | {"is_multilingual": False, "forced_decoder_ids": [[1, NO_TIMESTAMPS]], "max_length": 448},
    "new_tokens": ENGLISH | {"is_multilingual": False, "max_new_tokens": 5},
}
SMALL = {
    "even": config(),
    "uneven": config(
        d_model=24,
        encoder_layers=1,
        decoder_layers=3,
        encoder_attention_heads=2,
        decoder_attention_heads=3,
        num_mel_bins=20,
    ),
}
PUBLISHED = {
    "tiny": published(384, (4, 4), 6),
    "tiny.en": published(384, (4, 4), 6, 51864),
    "base": published(512, (6, 6), 8),
    "small": published(768, (12, 12), 12),
    "medium": published(1024, (24, 24), 16),
    "large-v3": published(1280, (32, 32), 20, 51866, 128),
    "large-v3-turbo": published(1280, (32, 4), 20, 51866, 128),
}
BATCH = 4
SHORT_FRAMES = (51, 24, 1)  # below all positions: only our own layers take them
FRONTENDS = {
    f"{rows}/{seconds}/{padding}": (rows, seconds, padding)
    for rows in (80, 128)
    for seconds in (0.0127, 0.437, 3.30006)
    for padding in ("max_length", "longest")
}


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """`cases.random_weight`, named without ``model.``; queries and keys twice as large, for attention that chooses."""
    drawn = cases.random_weight(name, shape)
    return 2 * drawn if re.search(r"(q|k)_proj", name) else drawn


def features(settings: dict) -> np.ndarray:
    """A batch of features of full length, each item louder than the one before: float32 [B, mel, T]."""
    drawn, _ = cases.model_input((2 * settings["max_source_positions"],) * BATCH, rows=settings["num_mel_bins"])
    return drawn * np.float32([0.25, 0.5, 1, 2])[:, None, None]


def tokens(settings: dict) -> np.ndarray:
    """Given tokens of the decoder: int64 [B, 7]."""
    draw = np.random.Generator(np.random.PCG64(1))
    return draw.integers(0, settings["vocab_size"], (BATCH, 7))


def vocabulary() -> tuple[str, ...]:
    """Token strings of the small models: words, then what they generate by."""
    return (*(f"\u0120w{index}" for index in range(END)), *SPECIAL)


def byte_pieces() -> list[str]:
    """A byte-level vocabulary: the alphabet, words, parts of characters, special tokens."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]
    words = ["\u0120the", "ing", "\u00e2\u0124", "\u00f0\u0141", "<|", "|>", "\u0120<<", "\u0120\u0120"]
    return [*alphabet, *words, "<|endoftext|>", "<|en|>", "<|12.34|>"]


def byte_sequences() -> list[list[int]]:
    """Random token sequences, so mostly bytes that are no text, and texts."""
    draw = np.random.Generator(np.random.PCG64(2))
    pieces = byte_pieces()
    texts = ["na\u00efve \u20ac 5", " \U0001f600 ok", "\u65e5\u672c\u8a9e", "tab\tnew\nline"]
    spelled = {byte: index for index, byte in enumerate([*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)])}
    spelled |= {
        byte: len(spelled) + place for place, byte in enumerate(byte for byte in range(256) if byte not in spelled)
    }
    return [
        *([spelled[byte] for byte in text.encode()] for text in texts),
        *(draw.integers(0, len(pieces), draw.integers(0, 12)).tolist() for _ in range(60)),
    ]
