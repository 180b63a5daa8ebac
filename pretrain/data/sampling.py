"""Which tiles a step sees: a pure function of seed and step, so that a run can be resumed anywhere by anybody.

A shuffled epoch of n tiles is a permutation of 0..n-1. Storing it costs 800 MB for 100 million tiles and a sort for
every epoch, so it is computed point by point: a Feistel network permutes 0..4^b-1, and values beyond n walk on until
they fall inside (Black and Rogaway 2002, "cycle walking").
"""

import numpy as np

_ROUNDS = 6


def permuted(positions: np.ndarray, size: int, key: int) -> np.ndarray:
    """Images of ``positions`` under a pseudo-random permutation of ``range(size)``.

    Args:
        positions: int64 ``[N]`` in [0, size).
        size: Number of elements, > 0.
        key: Chooses the permutation.

    Returns:
        int64 ``[N]`` in [0, size); different positions have different images.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low = np.uint64((1 << half) - 1)
    keys = np.random.default_rng(key).integers(0, 2**63, _ROUNDS, dtype=np.uint64)
    result = positions.astype(np.uint64)
    outside = np.ones(result.shape, dtype=bool)
    while outside.any():
        left, right = result[outside] >> np.uint64(half), result[outside] & low
        for round_key in keys:
            mixed = (right ^ round_key) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
            mixed *= np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ ((mixed >> np.uint64(32)) & low)
        result[outside] = (left << np.uint64(half)) | right
        outside = result >= np.uint64(size)
    return result.astype(np.int64)


def step_indices(size: int, batch_size: int, step: int, seed: int) -> np.ndarray:
    """Tiles of a step: consecutive positions of an endless row of shuffled epochs.

    Args:
        size: Tiles in the set.
        batch_size: Images a step.
        step: Step from 0.
        seed: Of the run.

    Returns:
        int64 ``[batch_size]``; every tile comes once an epoch, also where a batch spans two epochs.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
    epochs = positions // size
    indices = np.empty_like(positions)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        key = int(np.random.SeedSequence([seed, int(epoch)]).generate_state(1, np.uint64)[0])
        indices[here] = permuted(positions[here] % size, size, key)
    return indices


def share(indices: np.ndarray, part: int, parts: int) -> np.ndarray:
    """The ``part``-th of ``parts`` equal consecutive pieces."""
    length = len(indices) // parts
    return indices[part * length : (part + 1) * length]


def stream_seed(seed: int, *where: int) -> int:
    """A 63-bit seed for one place of a run (step, chunk, purpose); different places get independent streams."""
    return int(np.random.SeedSequence([seed, *where]).generate_state(1, np.uint64)[0] >> np.uint64(1))
