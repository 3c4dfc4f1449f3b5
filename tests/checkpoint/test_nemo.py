"""What is read from .nemo archives, and which models and settings are refused."""

import hashlib
import re

import pytest
import torch
from golden import cases
from nemo_archive import MODULES, archive, config, member, refused, weights
from tiny_archive import HYBRID, PIECES, conformer_config, write_conformer

from trtasr.checkpoint.nemo import read_nemo
from trtasr.errors import CheckpointError
from trtasr.models.load import build_model


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_plain_and_gzip_archives_are_read(tmp_path, mode):
    path = archive(tmp_path, mode=mode, extra=[member("./notes.txt", b"x" * 3_000_000)])
    checkpoint = read_nemo(path)
    assert checkpoint.family == "jasper"
    assert checkpoint.target.endswith("EncDecCTCModel")
    assert checkpoint.vocabulary == (" ", "a", "b")
    assert checkpoint.frontend.sample_rate == 16000
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert checkpoint.path == path
    assert "train_ds" not in checkpoint.config
    assert checkpoint.weights.keys() == weights().keys()
    model = build_model(checkpoint.family, checkpoint.config, checkpoint.weights)
    assert not model.training
    assert all(not p.requires_grad for p in model.parameters())


def test_nothing_is_written_beside_the_archive(tmp_path):
    read_nemo(archive(tmp_path, extra=[member("./tokenizer.model", b"1")]))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.nemo"]


def test_sections_of_nemo_before_1_0_are_read(tmp_path):
    old = config()
    for key in ("preprocessor", "encoder", "decoder"):
        section = old[key]
        old[key] = {"cls": section.pop("_target_"), "params": section}
    assert read_nemo(archive(tmp_path, old)).vocabulary == (" ", "a", "b")


def test_references_are_resolved(tmp_path):
    cfg = config(labels=[" ", "x", "y"])
    cfg["preprocessor"]["sample_rate"] = "${sample_rate}"
    cfg["decoder"]["vocabulary"] = "${labels}"
    cfg["decoder"]["feat_in"] = "${encoder.jasper.0.filters}"
    checkpoint = read_nemo(archive(tmp_path, cfg))
    assert checkpoint.vocabulary == (" ", "x", "y")
    assert checkpoint.config["decoder"]["feat_in"] == 8


def test_labels_stand_in_for_a_missing_vocabulary(tmp_path):
    cfg = config(labels=["a", "b", "c"])
    for key in ("vocabulary", "num_classes"):
        cfg["decoder"].pop(key)
        checkpoint = read_nemo(archive(tmp_path, cfg))
        assert checkpoint.vocabulary == ("a", "b", "c")
        model = build_model(checkpoint.family, checkpoint.config, checkpoint.weights)
        assert model.decoder.decoder_layers[0].out_channels == 4


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("asr.models.EncDecRNNTModel", "EncDecRNNTModel is a transducer"),
        ("asr.models.rnnt_bpe_models.EncDecRNNTBPEModel", "EncDecRNNTBPEModel is a transducer"),
        ("asr.models.EncDecHybridRNNTCTCBPEModel", "EncDecHybridRNNTCTCBPEModel is a hybrid"),
        ("asr.models.EncDecHybridRNNTCTCModel", "EncDecHybridRNNTCTCModel is a hybrid"),
        ("asr.models.EncDecMultiTaskModel", "EncDecMultiTaskModel .*encoder-decoder"),
        ("tts.models.FastPitchModel", "FastPitchModel"),
    ],
)
def test_unknown_model_class(tmp_path, target, words):
    error = refused(archive(tmp_path, config(target=f"nemo.collections.{target}")), rf"target: {words}.* not supported")
    assert_lists_what_is_supported(error.repair)


@pytest.mark.parametrize("model", ["EncDecHybridRNNTCTCBPEModel", "EncDecHybridRNNTCTCModel"])
def test_a_hybrid_names_nemos_converter(tmp_path, model):
    path = archive(tmp_path, config(target=f"nemo.collections.asr.models.{model}"))
    assert "convert_nemo_asr_hybrid_to_ctc.py" in refused(path, "hybrid").repair


def assert_lists_what_is_supported(repair):
    for word in (
        "QuartzNet",
        "Jasper",
        "ConvASREncoder",
        "Conformer",
        "FastConformer",
        "ConformerEncoder",
        "EncDecCTCModel",
        "EncDecCTCModelBPE",
        "ConvASRDecoder",
    ):
        assert re.search(rf"\b{word}\b", repair)


def test_hybrid_model_with_all_its_sections(tmp_path):
    error = refused(write_conformer(tmp_path / "hybrid.nemo", HYBRID), "a hybrid transducer and CTC model")
    assert_lists_what_is_supported(error.repair)


def test_canary_has_no_decoder_section(tmp_path):
    """As NeMo saves `EncDecMultiTaskModel`: its decoder is `transf_decoder`."""
    cfg = conformer_config() | {"target": "nemo.collections.asr.models.EncDecMultiTaskModel"}
    cfg["transf_decoder"] = cfg.pop("decoder")
    refused(archive(tmp_path, cfg), "an attention encoder-decoder")


@pytest.mark.parametrize(
    ("section", "name", "known"),
    [
        ("encoder", "SqueezeformerEncoder", "ConvASREncoder or ConformerEncoder"),
        ("encoder", "ConformerEncoderAdapter", "ConvASREncoder or ConformerEncoder"),
        ("encoder", "RNNEncoder", "ConvASREncoder or ConformerEncoder"),
        ("encoder", None, "ConvASREncoder or ConformerEncoder"),
        ("decoder", "RNNTDecoder", "here ConvASRDecoder"),
        ("decoder", "LSTMDecoder", "here ConvASRDecoder"),
        ("preprocessor", "AudioToMFCCPreprocessor", "here AudioToMelSpectrogramPreprocessor"),
    ],
)
@pytest.mark.parametrize("make", [config, conformer_config])
def test_unknown_module_class(tmp_path, make, section, name, known):
    cfg = make()
    cfg[section]["_target_"] = name and MODULES + name
    error = refused(archive(tmp_path, cfg), rf"{section}\._target_: {name}")
    assert_lists_what_is_supported(error.repair)
    assert known in error.repair


@pytest.mark.parametrize("target", ["ctc_bpe_models.EncDecCTCModelBPE", "ctc_models.EncDecCTCModel"])
def test_conformer_archive_is_read(tmp_path, target):
    target = f"nemo.collections.asr.models.{target}"
    checkpoint = read_nemo(write_conformer(tmp_path / "conformer.nemo", {"target": target}))
    assert checkpoint.family == "conformer"
    assert checkpoint.target == target
    assert checkpoint.vocabulary == tuple(PIECES)
    assert checkpoint.config["tokenizer"]["type"] == "bpe"
    model = build_model(checkpoint.family, checkpoint.config, checkpoint.weights)
    assert not model.training
    log_probs, lengths = model(torch.randn(1, 64, 30), torch.tensor([30]))
    assert log_probs.shape == (1, 8, len(PIECES) + 1)
    assert lengths.tolist() == [8]


def test_references_in_a_conformer_config_are_resolved(tmp_path):
    cfg = conformer_config(feat_in="${preprocessor.features}")
    assert read_nemo(write_conformer(tmp_path / "conformer.nemo", cfg)).config["encoder"]["feat_in"] == 64


@pytest.mark.parametrize(
    "section",
    [
        {"dir": "wpe", "type": "wpe", "vocab_path": "nemo:vocab.txt"},
        {"type": "agg", "langs": {"en": {"type": "bpe"}, "es": {"type": "bpe"}}},
        {"type": "multilingual"},
        {"type": ["bpe"]},
        "wpe",
    ],
)
def test_tokens_that_are_put_together_otherwise(tmp_path, section):
    path = write_conformer(tmp_path / "model.nemo", {"tokenizer": section})
    error = refused(path, r"tokenizer\.type: .*not supported")
    assert "tokenizer.type: bpe" in error.repair


def test_citrinet_is_refused_by_its_squeeze_and_excitation(tmp_path):
    cfg = config(target="nemo.collections.asr.models.EncDecCTCModelBPE", tokenizer={"dir": "bpe", "type": "bpe"})
    cfg["decoder"]["vocabulary"] = ["<unk>", "\u2581a", "b"]
    cfg["encoder"] |= cases.encoder([cases.block(8, 3, stride=[2], se=True, se_context_size=-1)])
    checkpoint = read_nemo(archive(tmp_path, cfg))
    assert checkpoint.family == "jasper"
    with pytest.raises(CheckpointError, match=r"jasper\[0\]: squeeze-and-excitation") as error:
        build_model(checkpoint.family, checkpoint.config, checkpoint.weights)
    assert "Citrinet" in error.value.repair


def test_sample_rates_that_disagree(tmp_path):
    refused(archive(tmp_path, config(sample_rate=8000)), "sample_rate is 8000 but preprocessor.sample_rate is 16000")


def test_feature_counts_that_disagree(tmp_path):
    cfg = config()
    cfg["preprocessor"]["features"] = 80
    refused(archive(tmp_path, cfg), "encoder.feat_in asks for 64 features, preprocessor.features gives 80")


def test_vocabulary_of_another_size(tmp_path):
    cfg = config()
    cfg["decoder"]["num_classes"] = 28
    refused(archive(tmp_path, cfg), "3 tokens, decoder.num_classes is 28")


@pytest.mark.parametrize("vocabulary", [None, "abc", [1, 2, 3], []])
def test_unusable_vocabulary(tmp_path, vocabulary):
    cfg = config()
    cfg["decoder"]["vocabulary"] = vocabulary
    refused(archive(tmp_path, cfg), "vocabulary")


def test_unknown_frontend_key(tmp_path):
    cfg = config()
    cfg["preprocessor"]["mel_scale"] = "htk"
    refused(archive(tmp_path, cfg), "mel_scale")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("preprocessor", "n_fft", "512"),
        ("preprocessor", "log_zero_guard_value", None),
        ("preprocessor", "window_size", 1e-6),
        ("preprocessor", "window_stride", 1e-6),
        ("preprocessor", "features", 10**9),
        ("preprocessor", 5, 1),
        ("encoder", "feat_in", "64"),
        ("encoder", "feat_in", None),
        ("encoder", "frame_splicing", [1]),
        ("decoder", "num_classes", "3"),
    ],
)
def test_wrong_values_name_the_key(tmp_path, section, key, value):
    cfg = config()
    cfg[section][key] = value
    refused(archive(tmp_path, cfg), rf"{section}\S*.*\b{key}\b")


def test_real_archive(shared):
    checkpoint = read_nemo(shared / "data" / "models" / "quartznet15x5.nemo")
    assert len(checkpoint.vocabulary) == 28
    assert checkpoint.frontend.features == 64
    model = build_model(checkpoint.family, checkpoint.config, checkpoint.weights)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(18.9e6, rel=0.01)


def test_real_conformer_archive(shared):
    checkpoint = read_nemo(shared / "data" / "models" / "conformer_ctc_small.nemo")
    assert checkpoint.family == "conformer"
    assert len(checkpoint.vocabulary) == 1024
    assert checkpoint.vocabulary[:4] == ("<unk>", "s", "\u2581the", "\u2581a")
    assert checkpoint.frontend.features == 80
    model = build_model(checkpoint.family, checkpoint.config, checkpoint.weights)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(13.2e6, rel=0.01)
