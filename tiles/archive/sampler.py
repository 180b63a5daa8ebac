"""Which tiles a training step sees: a pure function of seed, step, rank and world size.

Every epoch is a fresh random order of all tiles. The order is never stored: a Feistel network over the tile numbers
is a bijection that gives any place of it directly (Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains",
section 3: cycle walking). So a resumed run needs no state, and a run on another number of devices sees the same
global batches.
"""

import numpy as np

_ROUNDS = 6


def permute(positions: np.ndarray, length: int, key: int) -> np.ndarray:
    """Places ``positions`` of a pseudo-random order of ``range(length)``.

    Args:
        positions: Integers in ``[0, length)``, any shape.
        length: Number of things in the order.
        key: Chooses the order.

    Returns:
        int64 of the same shape; over all positions a permutation.
    """
    half_bits = max(1, (max(length - 1, 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half_bits) - 1)
    walked = np.asarray(positions, np.uint64).copy()
    outside = np.ones(walked.shape, bool)
    # The network permutes a power of four; what lands beyond the length walks on until it lands within.
    while outside.any():
        walked[outside] = _feistel(walked[outside], half_bits, mask, key)
        outside = walked >= np.uint64(length)
    return walked.astype(np.int64)


def _feistel(numbers: np.ndarray, half_bits: int, mask: np.uint64, key: int) -> np.ndarray:
    left, right = numbers >> np.uint64(half_bits), numbers & mask
    for turn in range(_ROUNDS):
        left, right = right, left ^ (_mix(right, key, turn) & mask)
    return (left << np.uint64(half_bits)) | right


def _mix(numbers: np.ndarray, key: int, turn: int) -> np.ndarray:
    """A 64-bit finaliser (Steele, Lea and Flood 2014, SplitMix) of number, key and round."""
    salt = (key * 0x9E3779B97F4A7C15 + (turn + 1) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    with np.errstate(over="ignore"):
        z = numbers + np.uint64(salt)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


class Sampler:
    """Global batches of tile numbers, shared out among ranks.

    Args:
        length: Number of tiles.
        batch_size: Tiles of a step over all ranks together.
        seed: Chooses the orders.
    """

    def __init__(self, length: int, batch_size: int, seed: int = 0) -> None:
        if length < 1 or batch_size < 1:
            raise ValueError("a sampler needs tiles and a batch size of at least one")
        self.length, self.batch_size, self.seed = length, batch_size, seed

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> np.ndarray:
        """Tile numbers of one rank at one step, int64 ``[batch_size / world_size]``.

        Raises:
            ValueError: Where the batch cannot be shared out evenly.
        """
        if self.batch_size % world_size or not 0 <= rank < world_size:
            raise ValueError(f"a batch of {self.batch_size} cannot be shared out to rank {rank} of {world_size}")
        share = self.batch_size // world_size
        first = step * self.batch_size + rank * share
        drawn = np.arange(first, first + share)
        epochs, positions = np.divmod(drawn, self.length)
        chosen = np.empty(share, np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            chosen[here] = permute(positions[here], self.length, self.seed * 1_000_003 + int(epoch))
        return chosen

    def epoch(self, step: int) -> float:
        """How many times every tile has been seen before a step."""
        return step * self.batch_size / self.length
