"""Which halves a change score is made of."""

from enum import StrEnum

from tiles.errors import InputError

# Below this ground sample distance pixels differ with every shadow and lean of a roof, and tokens cover parts of one
# object; above it a token covers several objects and a pixel's bands say more.
FINE_GSD_M = 3.0


class Method(StrEnum):
    """What is compared between two dates."""

    auto = "auto"
    features = "features"
    spectral = "spectral"
    fused = "fused"

    @classmethod
    def named(cls, name: str) -> "Method":
        """The method of that name.

        Raises:
            InputError: there is none; the sentence lists them.
        """
        if name not in set(cls):
            raise InputError(f"method {name!r} is none of {', '.join(cls)}")
        return cls(name)

    def settled(self) -> "Method":
        """``auto`` decided: both halves, each in deviations of its own background, weighed by ``fusion_weight``."""
        return Method.fused if self is Method.auto else self

    @property
    def reads_features(self) -> bool:
        """Whether a backbone is needed."""
        return self is not Method.spectral

    @property
    def reads_bands(self) -> bool:
        """Whether pixels are compared band by band."""
        return self is not Method.features


def fusion_weight(gsd_m: float) -> float:
    """Weight of the deep half against the spectral half in a fused score, at a ground sample distance in metres."""
    return 1.0 if gsd_m < FINE_GSD_M else 0.5
