import hashlib

import torch

from trtasr.zoo.network import BLANK, build, configuration, load_nemo, save_nemo


def test_configuration_has_channels_for_int8_tensor_cores():
    blocks = configuration()["encoder"]["jasper"]
    assert all(block["filters"] % 32 == 0 for block in blocks)
    assert [block["stride"] for block in blocks].count([2]) == 1
    assert len(configuration()["labels"]) == BLANK == 28


def test_archive_is_read_back_and_its_bytes_depend_on_the_weights_only(tmp_path):
    torch.manual_seed(0)
    model, frontend = build()
    for name in ("a.nemo", "b.nemo"):
        save_nemo(tmp_path / name, model, frontend)
    digests = {hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("a.nemo", "b.nemo")}
    assert len(digests) == 1
    loaded, _ = load_nemo(tmp_path / "a.nemo")
    for key, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key]), key
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nemo", "b.nemo"]
