"""The DINO family: every published model by its timm name, with the facts that decide how it is used.

A table and nothing else, importable without torch; the tests hold every row against timm's own models.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Published:
    """One published set of weights.

    Attributes:
        name: timm name with its tag.
        parameters: Number of parameters.
        patch_size: Side of a token in pixels (stride of the last map for ConvNeXt).
        prefix_tokens: Class and register tokens in front of the patches.
        gsd_m: Ground sample distance in metres of the training imagery, None for web images.
        licence: Licence of the weights.
    """

    name: str
    parameters: int
    patch_size: int
    prefix_tokens: int
    gsd_m: float | None
    licence: str

    @property
    def normalization(self) -> str:
        """Which statistics the weights expect: ``sat493m`` or ``imagenet``."""
        return "sat493m" if self.name.endswith(".sat493m") else "imagenet"

    @property
    def architecture(self) -> str:
        """The name without its tag."""
        return self.name.split(".")[0]


def _dino(size: str, patch: int, parameters: int) -> Published:
    return Published(f"vit_{size}_patch{patch}_224.dino", parameters, patch, 1, None, "apache-2.0")


def _dinov2(size: str, registers: int, parameters: int) -> Published:
    name = f"vit_{size}_patch14_{'reg4_' if registers else ''}dinov2.lvd142m"
    return Published(name, parameters, 14, 1 + registers, None, "apache-2.0")


def _dinov3(size: str, parameters: int, tag: str = "lvd1689m") -> Published:
    gsd = 0.6 if tag == "sat493m" else None
    return Published(f"vit_{size}_patch16_dinov3.{tag}", parameters, 16, 5, gsd, "dinov3-license")


def _convnext(size: str, parameters: int) -> Published:
    return Published(f"convnext_{size}.dinov3_lvd1689m", parameters, 32, 0, None, "dinov3-license")


FAMILY = (
    _dino("small", 16, 21_665_664),
    _dino("small", 8, 21_670_272),
    _dino("base", 16, 85_798_656),
    _dino("base", 8, 85_807_872),
    _dinov2("small", 0, 22_056_192),
    _dinov2("small", 4, 22_057_344),
    _dinov2("base", 0, 86_579_712),
    _dinov2("base", 4, 86_582_016),
    _dinov2("large", 0, 304_367_616),
    _dinov2("large", 4, 304_370_688),
    _dinov2("giant", 0, 1_136_479_232),
    _dinov2("giant", 4, 1_136_483_840),
    _dinov3("small", 21_586_944),
    _dinov3("small_plus", 28_683_264),
    _dinov3("base", 85_641_216),
    _dinov3("large", 303_079_424),
    _dinov3("huge_plus", 840_509_440),
    _dinov3("7b", 6_716_030_976),
    _dinov3("large", 303_079_424, "sat493m"),
    _dinov3("7b", 6_716_030_976, "sat493m"),
    _convnext("tiny", 27_820_128),
    _convnext("small", 49_454_688),
    _convnext("base", 87_566_464),
    _convnext("large", 196_230_336),
)


def cached_weights(name: str) -> Path | None:
    """Find the weights of a timm name in the local Hugging Face cache.

    Args:
        name: timm name with its tag.

    Returns:
        The safetensors file, or the index of a sharded one, or None when neither is on this machine.
    """
    from huggingface_hub import try_to_load_from_cache

    for file in ("model.safetensors", "model.safetensors.index.json"):
        found = try_to_load_from_cache(f"timm/{name}", file)
        if isinstance(found, str):
            return Path(found)
    return None
