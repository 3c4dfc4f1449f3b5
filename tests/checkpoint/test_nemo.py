"""Reading .nemo archives, good and bad."""

import gzip
import hashlib
import io
import os
import pickle
import re
import tarfile
import tracemalloc
from contextlib import contextmanager

import pytest
import torch
import yaml
from golden import cases
from tiny_archive import HYBRID, PIECES, conformer_config, write_conformer

from trtasr.checkpoint import nemo
from trtasr.checkpoint.nemo import read_members, read_nemo
from trtasr.errors import CheckpointError
from trtasr.models.jasper import JasperCtc
from trtasr.models.load import build_model
from trtasr.text.tokens import tokenizer

MODULES = "nemo.collections.asr.modules."


def config(**changes):
    preprocessor = {"_target_": MODULES + "AudioToMelSpectrogramPreprocessor", "sample_rate": 16000, "dither": 1e-5}
    encoder = {"_target_": MODULES + "ConvASREncoder", **cases.encoder([cases.block(8, 3, stride=[2])])}
    decoder = {"_target_": MODULES + "ConvASRDecoder", "feat_in": 8, "num_classes": 3, "vocabulary": [" ", "a", "b"]}
    return {
        "target": "nemo.collections.asr.models.ctc_models.EncDecCTCModel",
        "sample_rate": 16000,
        "preprocessor": preprocessor,
        "encoder": encoder,
        "decoder": decoder,
        "train_ds": {"manifest_filepath": "???", "batch_size": "${oc.env:BATCH}"},
        **changes,
    }


def weights():
    parts = config()
    state = JasperCtc(parts["encoder"], parts["decoder"]).state_dict()
    state["preprocessor.featurizer.fb"] = torch.zeros(1, 64, 257)
    return state


def saved(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def member(name, content=b"", kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, link
    return info, content


def archive(tmp_path, cfg=None, state=None, extra=(), mode="w"):
    """Write an archive as NeMo does: a folder entry, then ``./`` members."""
    text = cfg if isinstance(cfg, bytes) else yaml.safe_dump(config() if cfg is None else cfg).encode()
    content = state if isinstance(state, bytes) else saved(weights() if state is None else state)
    path = tmp_path / "model.nemo"
    with tarfile.open(path, mode) as tar:
        for info, data in (member(".", kind=tarfile.DIRTYPE), *extra, member("./model_config.yaml", text),
                           member("./model_weights.ckpt", content)):  # fmt: skip
            tar.addfile(info, io.BytesIO(data))
    return path


def refused(path, words):
    with pytest.raises(CheckpointError, match=words) as error:
        read_nemo(path)
    assert str(path) in error.value.problem
    assert error.value.repair
    assert error.value.exit_code == 2
    return error.value


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


def test_missing_file(tmp_path):
    refused(tmp_path / "none.nemo", "no such file")
    refused(tmp_path, "no such file")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x1f\x8b garbage", b"PK\x03\x04" + b"0" * 2000, b"\0" * 512])
def test_not_an_archive(tmp_path, content):
    path = tmp_path / "model.nemo"
    path.write_bytes(content)
    refused(path, "not a readable NeMo archive|no model_config.yaml")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("kept", [0.02, 0.1, 0.5, 0.9])
def test_truncated_archive(tmp_path, mode, kept):
    path = archive(tmp_path, mode=mode, extra=[member("./a.bin", os.urandom(20_000))])
    content = path.read_bytes()
    length = len(content.rstrip(b"\0")) if mode == "w" else len(content)
    path.write_bytes(content[: int(length * kept)])
    refused(path, "truncated|has no")


def test_archive_without_config_or_weights(tmp_path):
    for present, missing in (("model_config.yaml", "model_weights.ckpt"), ("model_weights.ckpt", "model_config.yaml")):
        path = tmp_path / "half.nemo"
        with tarfile.open(path, "w") as tar:
            info, data = member(present, b"a: 1")
            tar.addfile(info, io.BytesIO(data))
        refused(path, f"no {missing}")


@pytest.mark.parametrize("name", ["../evil.txt", "/etc/evil", "a/../../evil", "..\\evil", ".."])
def test_member_that_leaves_the_archive(tmp_path, name):
    path = archive(tmp_path, extra=[member(name, b"1")])
    refused(path, "outside the archive")
    assert not (tmp_path.parent / "evil.txt").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices(tmp_path, kind):
    refused(archive(tmp_path, extra=[member("x", kind=kind, link="model_config.yaml")]), "link, a device")


def test_duplicate_member(tmp_path):
    refused(archive(tmp_path, extra=[member("model_config.yaml", b"a: 1")]), "twice")


def test_large_config(tmp_path):
    refused(archive(tmp_path, b"a: " + b"x" * nemo.MAX_CONFIG_BYTES), "more than 4 MiB")


def test_too_many_members_and_bytes(tmp_path, monkeypatch):
    path = archive(tmp_path, extra=[member(f"f{index}", b"12345") for index in range(20)])
    monkeypatch.setattr(nemo, "MAX_MEMBERS", 10)
    refused(path, "more than 10 members")
    monkeypatch.setattr(nemo, "MAX_MEMBERS", 100)
    monkeypatch.setattr(nemo, "MAX_ARCHIVE_BYTES", 64)
    refused(path, "GiB")


def test_gzip_bomb_in_a_header_is_not_inflated(tmp_path):
    """A long-name header may claim any size, and tarfile would read it whole."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**36
    path = tmp_path / "model.nemo"
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 2**20))
    refused(path, "claims 68719476736 bytes")


def test_member_larger_than_the_archive_bound(tmp_path):
    info = tarfile.TarInfo("model_weights.ckpt")
    info.size = 2**36
    path = tmp_path / "model.nemo"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    refused(path, "8 GiB")


@pytest.mark.parametrize("headers", [
    {"GNU.sparse.map": "a,b"}, {"GNU.sparse.map": "0,1,2"},
    {"GNU.sparse.size": "abc"}, {"GNU.sparse.realsize": "abc"}, {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"},
    {"size": "-5"}, {"size": "9" * 5000}, {"mtime": "never", "uid": "x"},
    {"path": "a\0b"},
])  # fmt: skip
@pytest.mark.parametrize("name", ["model_config.yaml", "x"])
def test_odd_pax_headers(tmp_path, headers, name):
    path = tmp_path / "model.nemo"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        info, data = member(name, b"a: 1\n" * 300)
        info.pax_headers = headers
        tar.addfile(info, io.BytesIO(data))
    refused(path, "not a readable NeMo archive|sparse file|negative size|has no|has [0-9]+ bytes")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_chained_headers(tmp_path, kind):
    info, _ = member("x", kind=kind)
    path = tmp_path / "model.nemo"
    path.write_bytes(info.tobuf(tarfile.PAX_FORMAT) * 3000 + b"\0" * 1024)
    refused(path, "not a readable NeMo archive")


def test_headers_are_bounded_together(tmp_path, monkeypatch):
    monkeypatch.setattr(nemo, "MAX_HEADER_BYTES", 2**16)
    refused(archive(tmp_path, extra=[member(f"f{index}") for index in range(200)]), "headers take more than")


@contextmanager
def peak_below(size):
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size


def test_weights_that_expand_are_not_held(tmp_path):
    bomb = b"\0" * (3 * nemo.MAX_READ)
    path = archive(tmp_path, state=bomb, mode="w:gz")
    assert path.stat().st_size * nemo.MAX_EXPANSION < len(bomb)
    with peak_below(len(bomb) // 2):
        refused(path, "32 times the archive file")


def test_weights_are_held_once(tmp_path):
    content = os.urandom(8 * nemo.MAX_READ)
    path = archive(tmp_path, state=content)
    with peak_below(1.5 * len(content)):
        members = read_members(path)
    assert members["model_weights.ckpt"].getvalue() == content


def test_tensors_that_repeat_memory(tmp_path):
    state = {"a": torch.zeros(1).expand(2**30)}
    refused(archive(tmp_path, state=state), "inflates")


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("save", [saved, lambda state: pickle.dumps(state, protocol=2)])
def test_pickle_bomb_is_refused_and_not_run(tmp_path, save):
    target = tmp_path / "executed"
    state = {"encoder.weight": Bomb(target)}
    error = refused(archive(tmp_path, state=save(state)), "contains code or objects")
    assert "nothing in it was run" in error.problem
    assert not target.exists()


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_truncated_weights(tmp_path, kept):
    content = saved(weights())
    refused(archive(tmp_path, state=content[: int(len(content) * kept)]), "truncated or damaged")


@pytest.mark.parametrize("state", [b"", b"not weights at all"])
def test_weights_that_are_no_weights(tmp_path, state):
    refused(archive(tmp_path, state=state), "truncated or damaged|is damaged")


@pytest.mark.parametrize("state", [
    [torch.zeros(2)], {}, {"epoch": 3},
    {"a": torch.zeros(2, device="meta")}, {"a": torch.zeros(2, 2).to_sparse()},
    {1: torch.zeros(2)},
])  # fmt: skip
def test_weights_that_are_no_state_dict(tmp_path, state):
    refused(archive(tmp_path, state=saved(state)), "not a state dict|no plain CPU tensor|damaged")


@pytest.mark.parametrize(("text", "words"), [
    (b"a: [1, 2", "not valid YAML"),
    (b"- 1\n- 2", "not a mapping"),
    (b"", "not a mapping"),
    (b"a: !!python/object/apply:os.mkdir [evil]", "not valid YAML"),
    (b"\xff\xfe\xff", "not valid YAML"),
    (b"[" * 5000, "not valid YAML"),
    (b"target: EncDecCTCModel", "no key 'preprocessor'"),
])  # fmt: skip
def test_bad_yaml(tmp_path, text, words):
    refused(archive(tmp_path, text), words)


@pytest.mark.parametrize(("target", "words"), [
    ("asr.models.EncDecRNNTModel", r"EncDecRNNTModel is a transducer \(RNN-T\)"),
    ("asr.models.rnnt_bpe_models.EncDecRNNTBPEModel", r"EncDecRNNTBPEModel is a transducer \(RNN-T\)"),
    ("asr.models.EncDecHybridRNNTCTCBPEModel", "EncDecHybridRNNTCTCBPEModel is a hybrid transducer and CTC model"),
    ("asr.models.EncDecHybridRNNTCTCModel", "EncDecHybridRNNTCTCModel is a hybrid transducer and CTC model"),
    ("asr.models.EncDecMultiTaskModel", "EncDecMultiTaskModel is an attention encoder-decoder"),
    ("tts.models.FastPitchModel", "FastPitchModel is another kind of model"),
])  # fmt: skip
def test_unknown_model_class(tmp_path, target, words):
    error = refused(archive(tmp_path, config(target=f"nemo.collections.{target}")), rf"target: {words}.* not supported")
    assert_lists_what_is_supported(error.repair)


def assert_lists_what_is_supported(repair):
    for word in ("QuartzNet", "Jasper", "ConvASREncoder", "Conformer", "FastConformer", "ConformerEncoder",
                 "EncDecCTCModel", "EncDecCTCModelBPE", "ConvASRDecoder"):  # fmt: skip
        assert re.search(rf"\b{word}\b", repair)


def test_hybrid_model_with_all_its_sections(tmp_path):
    error = refused(write_conformer(tmp_path / "hybrid.nemo", HYBRID), "a hybrid transducer and CTC model")
    assert_lists_what_is_supported(error.repair)


def test_canary_has_no_decoder_section(tmp_path):
    """As NeMo saves `EncDecMultiTaskModel`: its decoder is `transf_decoder`."""
    cfg = conformer_config() | {"target": "nemo.collections.asr.models.EncDecMultiTaskModel"}
    cfg["transf_decoder"] = cfg.pop("decoder")
    refused(archive(tmp_path, cfg), "an attention encoder-decoder")


@pytest.mark.parametrize(("section", "name", "known"), [
    ("encoder", "SqueezeformerEncoder", "ConvASREncoder or ConformerEncoder"),
    ("encoder", "ConformerEncoderAdapter", "ConvASREncoder or ConformerEncoder"),
    ("encoder", "RNNEncoder", "ConvASREncoder or ConformerEncoder"),
    ("encoder", None, "ConvASREncoder or ConformerEncoder"),
    ("decoder", "RNNTDecoder", "here ConvASRDecoder"),
    ("decoder", "LSTMDecoder", "here ConvASRDecoder"),
    ("preprocessor", "AudioToMFCCPreprocessor", "here AudioToMelSpectrogramPreprocessor"),
])  # fmt: skip
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


def test_pieces_as_nemo_1_0_wrote_them(tmp_path):
    """Its vocab.txt, which it copied into the decoder, marks the inside of words by ## instead of their start."""
    cfg = conformer_config()
    cfg["decoder"]["vocabulary"] = ["<unk>", "##s", "the", "##t", *(f"##{index}" for index in range(len(PIECES) - 4))]
    checkpoint = read_nemo(write_conformer(tmp_path / "old.nemo", cfg))
    assert tokenizer(checkpoint.vocabulary).decode([2, 1, 2, 3]) == "thes thet"


@pytest.mark.parametrize("section", [
    {"dir": "wpe", "type": "wpe", "vocab_path": "nemo:vocab.txt"},
    {"type": "agg", "langs": {"en": {"type": "bpe"}, "es": {"type": "bpe"}}},
    {"type": "multilingual"}, {"type": ["bpe"]}, "wpe",
])  # fmt: skip
def test_tokens_that_are_put_together_otherwise(tmp_path, section):
    path = write_conformer(tmp_path / "model.nemo", {"tokenizer": section})
    error = refused(path, r"tokenizer\.type: .*not supported")
    assert "characters or SentencePiece pieces" in error.repair
    assert "tokenizer.type: bpe" in error.repair


def test_citrinet_is_refused_by_its_squeeze_and_excitation(tmp_path):
    cfg = config(target="nemo.collections.asr.models.EncDecCTCModelBPE", tokenizer={"dir": "bpe", "type": "bpe"})
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


@pytest.mark.parametrize(("section", "key", "value"), [
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
])  # fmt: skip
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
