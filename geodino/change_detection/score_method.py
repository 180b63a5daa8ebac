"""Which halves a change score is made of."""

from enum import StrEnum

from tiles.errors import InputError


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
        """``auto`` decided: both halves, each in deviations of its own background, tokens with ``TOKEN_WEIGHT``."""
        return Method.fused if self is Method.auto else self

    @property
    def reads_features(self) -> bool:
        """Whether a backbone is needed."""
        return self is not Method.spectral

    @property
    def reads_bands(self) -> bool:
        """Whether pixels are compared band by band."""
        return self is not Method.features
