"""Inputs of the golden tests, computed alike by the script that asks NeMo and by the tests that check ours."""

import re
import zlib

import numpy as np

RATE = 16000
SECONDS = (0.01, 0.02, 0.1, 0.5, 1.0, 3.3, 20.0)
MIXED_SECONDS = (1.0, 0.02, 3.3, 0.437)
FRONTENDS = {
    "default": {},
    "hamming_n_fft_1024": {"window": "hamming", "n_fft": 1024},
    "clamp": {"log_zero_guard_type": "clamp", "log_zero_guard_value": 1e-3},
    "all_features": {"normalize": "all_features"},
    "log_only": {"normalize": None},
    "no_preemph": {"preemph": None},
    "pad_to_0": {"pad_to": 0},
    "exact_pad": {"exact_pad": True},
    "conformer": {"features": 80, "window_size": 0.025, "n_fft": 512, "pad_to": 0},
    "mag_power_1": {"mag_power": 1.0},
    "splicing_2": {"frame_splicing": 2},
    "rate_8k_blackman": {"sample_rate": 8000, "window": "blackman", "lowfreq": 50, "highfreq": 3800},
}
KEPT_FRAMES = 8
MODEL_FRAMES = (200, 131, 64)
VOCABULARY = [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]


def signal(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """A chirp with a syllable-like envelope in noise: float32 [samples]."""
    time = np.arange(round(seconds * rate)) / rate
    chirp = np.sin(2 * np.pi * (120 + 170 * time) * time) + 0.3 * np.sin(2 * np.pi * 2300 * time)
    noise = np.random.Generator(np.random.PCG64(seed)).random(len(time)) - 0.5
    return (0.3 * chirp * np.sin(2 * np.pi * 2.1 * time) ** 2 + 0.02 * noise).astype(np.float32)


def batch(seconds: tuple[float, ...], rate: int = RATE) -> tuple[np.ndarray, np.ndarray]:
    """Zero-padded signals [B, samples] and their lengths [B]."""
    signals = [signal(s, rate, seed) for seed, s in enumerate(seconds)]
    lengths = np.array([len(s) for s in signals])
    padded = np.zeros((len(signals), lengths.max()), np.float32)
    for row, s in zip(padded, signals, strict=True):
        row[: len(s)] = s
    return padded, lengths


def frontend_cases() -> list[str]:
    """Names of the front-end cases: each configuration at each length, and with a batch of mixed lengths."""
    return [f"{name}/{size}" for name in FRONTENDS for size in (*SECONDS, "mixed")]


def frontend_case(case: str) -> tuple[dict, tuple[np.ndarray, np.ndarray]]:
    """Preprocessor keys, and (audio, lengths)."""
    name, size = case.split("/")
    seconds = MIXED_SECONDS if size == "mixed" else (float(size),)
    return FRONTENDS[name], batch(seconds, FRONTENDS[name].get("sample_rate", RATE))


def kept(frames: int) -> np.ndarray:
    """Which frames of an utterance the golden file holds: evenly spread, first and last included."""
    return np.unique(np.linspace(0, frames - 1, min(frames, KEPT_FRAMES)).round().astype(int))


def moments(features: np.ndarray) -> np.ndarray:
    """Statistics over all frames of [mel, T], so that frames that are not kept count too: float64 [3]."""
    x = features.astype(np.float64)
    ramp = np.cos(np.arange(x.shape[1]))
    return np.array([np.abs(x).mean(), (x**2).mean(), (x * ramp).mean()]) if x.size else np.zeros(3)


def block(filters: int, kernel: int, **options: object) -> dict:
    """One entry of the encoder's block list."""
    return {
        "filters": filters,
        "repeat": 1,
        "kernel": [kernel],
        "stride": [1],
        "dilation": [1],
        "dropout": 0.0,
        "residual": False,
        "separable": True,
        **options,
    }


def quartznet15x5() -> dict:
    """Encoder section of QuartzNet15x5."""
    shapes = ((256, 33), (256, 39), (512, 51), (512, 63), (512, 75))
    body = [block(filters, kernel, repeat=5, residual=True) for filters, kernel in shapes for _ in range(3)]
    return encoder([block(256, 33, stride=[2]), *body, block(512, 87, dilation=[2]), block(1024, 1, separable=False)])


def encoder(blocks: list[dict], **options: object) -> dict:
    """An encoder section."""
    return {"feat_in": 64, "activation": "relu", "conv_mask": True, "jasper": blocks, **options}


def dense(**options: object) -> dict:
    return block(16, 5, repeat=2, residual=True, residual_dense=True, separable=False, **options)


SMALL_MODELS = {
    "jasper_dense_residual": encoder([block(16, 5, stride=[2], separable=False), dense(), dense(), dense()]),
    "stride_last": encoder([block(16, 7, repeat=3, stride=[2], stride_last=True), block(16, 3)]),
    "stride_every": encoder([block(16, 7, repeat=2, stride=[2]), block(16, 3)]),
    "stride_add": encoder(
        [
            block(16, 7, repeat=3, stride=[2], stride_last=True, residual=True, residual_mode="stride_add"),
            block(16, 3, residual=True),
        ]
    ),
    "dilation": encoder([block(16, 9, dilation=[3], repeat=2, residual=True), block(16, 5, dilation=[2])]),
    "residual_max": encoder([block(16, 5), block(16, 5, residual=True, residual_mode="max")]),
    "kernel_size_factor": encoder([block(16, 11, kernel_size_factor=0.7), block(16, 6)]),
    "future_context": encoder(
        [block(16, 11, future_context=2, stride=[2]), block(16, 5, future_context=0), block(16, 3, future_context=3)]
    ),
    "future_context_dilated": encoder([block(16, 5, future_context=1, dilation=[2]), block(16, 3)]),
    "no_conv_mask": encoder([block(16, 5, repeat=2, residual=True)], conv_mask=False),
    "frame_splicing": encoder([block(16, 5)], feat_in=32, frame_splicing=2),
    **{name: encoder([block(16, 5, repeat=2)], activation=name) for name in ("hardtanh", "selu", "swish")},
}


def small_model(name: str) -> dict:
    """Encoder section of a small configuration."""
    return SMALL_MODELS[name]


def conformer(**options: object) -> dict:
    """Encoder section of a Conformer of two layers."""
    return {"feat_in": 64, "n_layers": 2, "d_model": 32, "n_heads": 4, "conv_kernel_size": 9, **options}


def published(layers: int, width: int, heads: int, kernel: int = 31, **options: object) -> dict:
    """Encoder section of a size that NeMo publishes; defaults as in its conformer_ctc_bpe.yaml."""
    return conformer(feat_in=80, n_layers=layers, d_model=width, n_heads=heads, conv_kernel_size=kernel, **options)


FAST = {"subsampling": "dw_striding", "subsampling_factor": 8, "subsampling_conv_channels": 256}
CONFORMER_FRAMES = (97, 61, 5)
SMALL_CONFORMERS = {
    "striding_4": conformer(),
    "striding_2_kernel_31": conformer(subsampling_factor=2, conv_kernel_size=31),
    "striding_8_odd_mel": conformer(subsampling_factor=8, feat_in=50),
    "striding_channels_12": conformer(subsampling_conv_channels=12),
    "dw_striding_4": conformer(subsampling="dw_striding"),
    "dw_striding_8_fast": conformer(**FAST | {"subsampling_conv_channels": 24}, use_bias=False, xscaling=False),
    "vggnet_4": conformer(subsampling="vggnet", subsampling_conv_channels=8),
    "tied_biases": conformer(untie_biases=False),
    "feat_out_20": conformer(feat_out=20),
    "no_bias": conformer(use_bias=False),
    "no_xscaling": conformer(xscaling=False),
    "heads_1": conformer(n_heads=1),
    "heads_8": conformer(n_heads=8),
    "expansion_2": conformer(ff_expansion_factor=2),
    "explicit_context": conformer(att_context_size=[[-1, -1]], conv_context_size=[4, 4]),
    "short_position_table": conformer(pos_emb_max_len=8),  # NeMo makes a longer one when it needs to
}
CONFORMER_SMALL = published(16, 176, 4)
PUBLISHED_CONFORMERS = {
    "conformer_small": CONFORMER_SMALL,
    "conformer_medium": published(18, 256, 4),
    "conformer_large": published(18, 512, 8),
    "fastconformer_large": published(17, 512, 8, 9, **FAST),
    "fastconformer_xlarge": published(24, 1024, 8, 9, **FAST, xscaling=False),
    "fastconformer_xxlarge": published(42, 1024, 8, 5, **FAST, xscaling=False, use_bias=False),
}


def conformer_frames(name: str) -> tuple[int, ...]:
    """Input lengths of a Conformer case: mixed, but one utterance where NeMo has no masks."""
    return {"conformer_small": MODEL_FRAMES, "vggnet_4": (61,)}.get(name, CONFORMER_FRAMES)


def conformer_weight(name: str, shape: tuple[int, ...], encoder: dict) -> np.ndarray:
    """`random_weight`; alike in every layer for position biases that the layers share.

    Queries, keys and positions get twice the size: attention that looks everywhere alike would make the frames of a
    deep model alike.
    """
    if not encoder.get("untie_biases", True):
        name = re.sub(r"layers\.\d+\.(self_attn\.pos_bias)", r"\1", name)
    weight = random_weight(name, shape)
    return 2 * weight if re.search(r"linear_(q|k|pos)\.weight", name) else weight


def state_lines(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """State-dict names and shapes as sorted lines."""
    return "\n".join(sorted(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())).encode()


def model_input(frames: tuple[int, ...], seed: int = 0, rows: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Features [B, rows, T] in -sqrt(3)..sqrt(3) (variance 1), noise beyond each length too, and lengths [B]."""
    draw = np.random.Generator(np.random.PCG64(seed)).random((len(frames), rows, max(frames)))
    return ((draw - 0.5) * 12**0.5).astype(np.float32), np.array(frames)


def random_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A weight from its state-dict name alone, scaled so that activations keep their size through the depth.

    Convolutions get variance 1 / fan-in. Batch-norm gains make up for the half that ReLU removes.
    """
    draw = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).random(shape)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_var"):
        return (draw + 0.5).astype(np.float32)
    if len(shape) > 1:
        return ((draw - 0.5) * (12 / np.prod(shape[1:])) ** 0.5).astype(np.float32)
    if name.endswith(".weight"):
        return (0.95 + 0.43 * draw).astype(np.float32)
    return (0.4 * (draw - 0.5)).astype(np.float32)
