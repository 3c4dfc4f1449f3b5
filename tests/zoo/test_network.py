import hashlib
import random
import tarfile

import pytest
import torch

from trtasr.checkpoint.nemo import read_nemo
from trtasr.zoo.grammar import sample
from trtasr.zoo.network import NETWORKS, configuration, load_nemo, untrained, write_nemo


@pytest.fixture(params=NETWORKS)
def recognizer(request):
    torch.manual_seed(0)
    return untrained(request.param)


@pytest.mark.parametrize("name", ["quartznet", "jasper"])
def test_channels_suit_int8_tensor_cores(name):
    blocks = configuration(name)["encoder"]["jasper"]
    assert all(block["filters"] % 32 == 0 for block in blocks)
    assert [block["stride"] for block in blocks].count([2]) == 1
    assert len(configuration(name)["labels"]) == 28


def test_jasper_is_dense_and_quartznet_is_separable():
    blocks = {name: configuration(name)["encoder"]["jasper"] for name in ("quartznet", "jasper")}
    assert any(block["residual_dense"] for block in blocks["jasper"])
    assert not any(block["separable"] for block in blocks["jasper"])
    assert any(block["separable"] for block in blocks["quartznet"])
    assert not any(block.get("residual_dense") for block in blocks["quartznet"])


def test_conformer_widths_suit_int8_tensor_cores():
    config = configuration("conformer")
    assert config["encoder"]["d_model"] % (32 * config["encoder"]["n_heads"]) == 0
    assert config["decoder"]["num_classes"] == len(config["decoder"]["vocabulary"]) == 128
    assert config["preprocessor"]["features"] == config["encoder"]["feat_in"] == 80


def test_every_network_is_small_and_gives_its_classes(recognizer):
    assert 1e6 <= sum(parameter.numel() for parameter in recognizer.model.parameters()) <= 2.5e6
    features = torch.randn(2, recognizer.frontend.config.features, 96)
    log_probs, lengths = recognizer.model.eval()(features, torch.tensor([96, 50]))
    assert list(recognizer.tokens.vocabulary) == recognizer.config["decoder"]["vocabulary"]
    assert log_probs.shape[2] == len(recognizer.tokens.vocabulary) + 1
    assert lengths[0] == log_probs.shape[1]


def test_ids_of_a_transcript_decode_to_it(recognizer):
    encode, rng = recognizer.encoder(), random.Random(4)
    for text in (sample(rng) for _ in range(200)):
        assert recognizer.tokens.decode(encode(text)) == text


def test_archive_is_read_back_and_its_bytes_depend_on_the_weights_only(recognizer, tmp_path):
    for name in ("a.nemo", "b.nemo"):
        write_nemo(tmp_path / name, recognizer.config, recognizer.model, recognizer.frontend)
    digests = {hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("a.nemo", "b.nemo")}
    assert len(digests) == 1
    assert (tmp_path / "a.nemo").stat().st_size <= 10e6
    loaded = load_nemo(tmp_path / "a.nemo")
    assert (loaded.config, loaded.tokens) == (recognizer.config, recognizer.tokens)
    for key, value in recognizer.model.state_dict().items():
        assert torch.equal(value, loaded.model.state_dict()[key]), key
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nemo", "b.nemo"]


def test_an_archive_with_pieces_holds_the_files_its_tokenizer_names(tmp_path):
    recognizer, path = untrained("conformer"), tmp_path / "conformer.nemo"
    write_nemo(path, recognizer.config, recognizer.model, recognizer.frontend)
    section = read_nemo(path).config["tokenizer"]
    with tarfile.open(path) as archive:
        names = {name.removeprefix("./") for name in archive.getnames()}
    assert {section[key].removeprefix("nemo:") for key in ("model_path", "vocab_path")} <= names
