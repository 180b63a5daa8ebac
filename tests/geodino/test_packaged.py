"""The backbone inside the package: what commands take when told nothing."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file

from geodino.backbones.backbone import PACKAGED, load_backbone
from geodino.backbones.card import CARD_FILE, RGB, WEIGHTS_FILE, read_card
from geodino.backbones.normalize import SATELLITE


def test_it_is_small_whole_and_says_what_it_is() -> None:
    assert (PACKAGED / WEIGHTS_FILE).stat().st_size <= 25_000_000
    card = read_card(PACKAGED / CARD_FILE)
    assert card.bands == RGB
    assert card.patch_size == 8
    for said in (card.data, card.licence, card.limits, card.hardware, card.hours, card.metrics, card.recipe_hash):
        assert said
    assert card.seed is not None


@pytest.mark.parametrize("spec", [None, "packaged"])
def test_it_is_the_default_and_brings_the_satellite_normalisation(spec: str | None) -> None:
    backbone = load_backbone(spec, device="cpu", precision="fp32")
    assert backbone.name == "geodino-sentinel"
    assert backbone.normalization == SATELLITE
    tokens = backbone.encode(torch.zeros(2, 3, 64, 48))
    assert tokens.cls.shape == (2, 256)
    assert tokens.patches.shape == (2, 256, 8, 6)
    assert bool(torch.isfinite(tokens.patches).all())


def test_timm_loads_it_by_itself() -> None:
    card = json.loads((PACKAGED / CARD_FILE).read_text())
    model = timm.create_model(card["architecture"], num_classes=0, **card["model_args"])
    weights = load_file(PACKAGED / WEIGHTS_FILE)
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    missing, unexpected = model.load_state_dict({name: value.float() for name, value in weights.items()}, strict=False)
    assert not unexpected
    assert all("rope" in name or "bias_mask" in name or "k_bias" in name for name in missing), missing
    pixels = torch.rand(1, 3, 64, 64)
    model.eval()
    own = load_backbone(device="cpu", precision="fp32").encode(pixels)
    with torch.no_grad():
        tokens = model.forward_features(pixels)
    torch.testing.assert_close(tokens[:, 0].float(), own.cls, rtol=1e-4, atol=1e-4)
