"""Which halves a change score is made of."""

from enum import StrEnum

# Above this ground sample distance a pixel's bands say more about change than its surroundings do, and a token covers
# several objects; below it pixels differ with every shadow and shift, and tokens cover parts of one object.
FINE_GSD_M = 3.0


class Method(StrEnum):
    """What is compared between two dates."""

    auto = "auto"
    features = "features"
    spectral = "spectral"
    fused = "fused"

    def settled(self, gsd_m: float) -> "Method":
        """``auto`` decided by the ground sample distance in metres."""
        if self is not Method.auto:
            return self
        return Method.features if gsd_m < FINE_GSD_M else Method.fused

    @property
    def reads_features(self) -> bool:
        """Whether a backbone is needed."""
        return self is not Method.spectral

    @property
    def reads_bands(self) -> bool:
        """Whether pixels are compared band by band."""
        return self is not Method.features
