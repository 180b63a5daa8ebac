"""What is refused before the first step, and in which words."""

import pytest
import torch

from pretrain.engine.checks import check_compiler, check_recipe
from pretrain.recipes.loading import load_recipe
from tiles.errors import InputError


@pytest.mark.parametrize(
    ("pair", "sentence"),
    [
        ("crops.global_size=100", "crops.global_size 100 is no multiple of the 16-pixel patch; set it to 96"),
        ("crops.local_size=40", "crops.local_size 40 is no multiple of the 16-pixel patch"),
        ("backbone.untie_norms=true,crops.local_count=0", "and crops.local_count is 0"),
        ("crops.gram_scale=null", "Gram anchoring needs undistorted crops"),
        ("crops.gram_scale=1.1", "crops.gram_scale gives crops of 123 pixels"),
        ("dino.head.prototypes=65536", "dino.head.prototypes 65536 cannot be balanced by the 128 rows of a step"),
        ("ibot.head.prototypes=9999999", "ibot.head.prototypes 9999999 cannot be balanced"),
        ("backbone.architecture=resnet18", "neither a ViT of the DINO family nor a ConvNeXt"),
        ("backbone.architecture=vit_enormous", "timm knows no model called 'vit_enormous'"),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_the_first_step(pair: str, sentence: str) -> None:
    with pytest.raises(InputError) as error:
        check_recipe(load_recipe("tiny", pair.split(",")))
    assert sentence in str(error.value)


def test_compiling_without_a_compiler_is_refused_where_one_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    compiled = load_recipe("tiny", ["backbone.compile=true"])
    with pytest.raises(InputError, match="there is no no-such-compiler here"):
        check_compiler(compiled, torch.device("cpu"))
    check_compiler(compiled, torch.device("cuda"))
    check_compiler(load_recipe("tiny"), torch.device("cpu"))
