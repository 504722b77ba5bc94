"""Taps: their names, their order, and the choice among them."""

import pytest
import torch

from plankton_study.features.taps import find_taps
from plankton_study.models.networks.outputs import WithHead
from plankton_study.models.networks.resnet import build_resnet
from plankton_study.models.networks.unet import build_unet
from plankton_study.models.networks.vit import build_vit
from plankton_study.run.errors import StudyError
from plankton_study.run.schema import UNet

BLANK = torch.zeros(1, 1, 16, 16)


@pytest.fixture(scope="module")
def unet():
    return build_unet(UNet(channels=(8, 16), attention=(8,), head_channels=8), 16, 0).eval()


def test_taps_are_named_by_stage_resolution_and_number_in_order(unet):
    taps = find_taps(unet, BLANK, 0)
    names = [tap.name for tap in taps]
    assert names[0] == "down16.resnet0" and names[-1] == "up16.resnet1"
    assert "mid8.attention0" in names
    assert len(set(names)) == len(names)
    assert [tap.order for tap in taps] == list(range(len(taps)))
    assert [tap.resolution for tap in taps if tap.stage == "mid"] == [8, 8, 8]
    assert not any(module._forward_hooks for module in unet.modules())


def test_patterns_choose_taps_and_an_empty_choice_is_refused(unet):
    assert {tap.stage for tap in find_taps(unet, BLANK, 0, patterns=("up*",))} == {"up"}
    with pytest.raises(StudyError, match="decoder.*matches none of the taps down16.resnet0"):
        find_taps(unet, BLANK, 0, patterns=("decoder*",))


def test_taps_of_a_resnet_are_its_blocks_also_behind_a_head(shared):
    resnet = build_resnet(shared.profile.resnet).eval()
    for model in (resnet, WithHead(resnet, 16, 3).eval()):
        taps = find_taps(model, BLANK)
        assert [(tap.name, tap.stage, tap.resolution, tap.channels) for tap in taps] == [
            ("map16.block0", "map", 16, 8),
            ("map8.block0", "map", 8, 16),
        ]


def test_taps_of_a_transformer_are_its_blocks(shared):
    taps = find_taps(build_vit(shared.profile.vit, 16).eval(), BLANK)
    assert [tap.name for tap in taps] == ["tokens4.block0", "tokens4.block1"]
    assert {(tap.stage, tap.resolution, tap.channels) for tap in taps} == {("tokens", 4, 16)}
