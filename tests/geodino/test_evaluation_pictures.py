import numpy as np
import pytest
import torch

from geodino.backbones.attention import attention_maps
from geodino.backbones.backbone import untrained_backbone
from geodino.evaluation.dataset import ImageSet
from geodino.evaluation.pictures import draw, pca_colours
from tiles.errors import InputError
from tiles.scenes.band import Pixels

MODELS = {
    "vit_tiny_patch16_dinov3_qkvb": {"depth": 2},
    "vit_small_patch14_reg4_dinov2": {"depth": 2, "embed_dim": 128, "num_heads": 2, "img_size": 70},
    "vit_tiny_patch16_224": {"depth": 2},
}


@pytest.fixture(params=MODELS)
def backbone(request):
    return untrained_backbone(request.param, device="cpu", precision="fp32", **MODELS[request.param])


def test_attention_is_a_distribution_over_patches_and_prefix(backbone):
    x = torch.randn(2, 3, 3 * backbone.patch_size, 5 * backbone.patch_size)
    maps = attention_maps(backbone, x)
    assert maps.shape == (2, backbone.module.blocks[-1].attn.num_heads, 3, 5)
    assert (maps > 0).all() and (maps.sum((2, 3)) < 1).all()  # the class token and registers hold the rest


def test_attention_weights_are_those_that_the_model_uses(backbone):
    """Zero values everywhere but at one patch: what the class token reads is that patch's weight."""
    x = torch.randn(1, 3, 2 * backbone.patch_size, 2 * backbone.patch_size)
    before = backbone.encode(x).cls
    maps = attention_maps(backbone, x)
    assert torch.equal(backbone.encode(x).cls, before)  # looking changes nothing
    attn = backbone.module.blocks[-1].attn
    assert attn.fused_attn
    captured = {}
    real = torch.nn.functional.scaled_dot_product_attention

    def spy(q, k, v, **kwargs):
        captured["weights"] = (q[:, :, :1] @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        return real(q, k, v, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
        backbone.module.forward_features(x)
    expected = captured["weights"][:, :, 0, backbone.prefix_tokens :].reshape(maps.shape)  # the last call wins
    torch.testing.assert_close(maps, expected, atol=1e-5, rtol=0)


def test_a_convnext_has_no_attention():
    backbone = untrained_backbone("convnext_atto", device="cpu", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))
    with pytest.raises(InputError, match="no attention to draw"):
        attention_maps(backbone, torch.zeros(1, 3, 64, 64))


def test_pca_separates_what_differs_most():
    tokens = np.random.default_rng(0).normal(size=(2, 6, 4, 4)) * 0.01
    tokens[:, 2, :, 2:] += 5  # the right half differs along one feature
    first = pca_colours(tokens)[..., 0]
    assert first.shape == (2, 4, 4)
    left, right = first[:, :, :2], first[:, :, 2:]
    assert abs(left.mean() - right.mean()) > 0.9


def test_pictures_are_written_side_by_side(backbone, tmp_path):
    from PIL import Image

    values = np.random.default_rng(0).random((3, 40, 40), dtype=np.float32)
    images = ImageSet("toy", ("a", "b"), ("x", "y"), lambda i: Pixels(values, np.ones((40, 40), bool)), "0")
    side = 4 * backbone.patch_size
    files = draw(backbone, images, tmp_path, count=5, size=side)
    assert len(files) == 2
    with Image.open(files[0]) as picture:
        panels = 3 + min(6, backbone.module.blocks[-1].attn.num_heads)  # image, mean, heads, PCA
        assert picture.size == (panels * (side + 4) - 4, side)
    assert not list(tmp_path.glob("*.part"))
