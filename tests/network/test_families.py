"""Every family of models has a wiring, and both sides of it fit."""

from dataclasses import replace

import pytest
from tiny_archive import LETTERS, config
from whisper_pair import DESCRIBED, tiny_whisper

from trtasr.audio.features import FrontendConfig
from trtasr.audio.waveform import WaveformConfig
from trtasr.models import load
from trtasr.models.jasper import JasperCtc
from trtasr.network.families import FAMILIES, network_of, original_of
from trtasr.network.network import Described
from trtasr.text.tokens import CharTokenizer

QUARTZNET = Described("jasper", FrontendConfig(features=64), CharTokenizer(tuple(LETTERS)))
MOONSHINE = replace(DESCRIBED, family="moonshine", frontend=WaveformConfig())


def test_every_family_that_is_built_is_wired():
    assert FAMILIES.keys() == load.FAMILIES.keys()


@pytest.mark.parametrize(
    ("described", "parts", "unit"),
    [
        (QUARTZNET, ["model"], "frames"),
        (replace(QUARTZNET, family="conformer"), ["model"], "frames"),
        (DESCRIBED, ["encoder", "decoder"], "tokens"),
        (MOONSHINE, ["encoder", "decoder"], "tokens"),
    ],
)
def test_a_network_is_that_of_its_family(described, parts, unit):
    network = network_of(described)
    assert [part.name for part in network.parts] == parts
    assert (network.unit, network.last.name) == (unit, parts[-1])
    assert network.frontend is described.frontend
    assert FAMILIES[described.family].generates == (described.generation is not None)


@pytest.mark.parametrize(
    ("described", "model"),
    [
        (QUARTZNET, lambda: JasperCtc(config()["encoder"], config()["decoder"]).eval()),
        (DESCRIBED, tiny_whisper),
    ],
    ids=["jasper", "whisper"],
)
def test_the_original_exports_one_graph_per_part(tmp_path, described, model):
    network = network_of(described)
    original_of(model(), network).export(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(network.files(tmp_path))
