"""Seeds as pure functions of what they are for, so that nothing depends on order, batch or worker count."""

from __future__ import annotations

import numpy as np

# Names of independent streams; the number is part of every recorded result, so never renumber.
STREAMS = {
    "env": 1,
    "policy": 2,
    "train": 3,
    "shuffle": 4,
    "expert": 5,
    "noise": 6,
    "init": 7,
    "goal": 8,
    "choice": 9,
    "replay": 10,
    "latency": 11,
}


def derive_seed(stream: str, *key: int) -> int:
    """63-bit seed for ``key`` in a named stream (NumPy ``SeedSequence``: well mixed, stable across versions)."""
    words = np.random.SeedSequence([STREAMS[stream], *(int(k) for k in key)]).generate_state(2, np.uint32)
    return (int(words[0]) << 31) ^ int(words[1])


def episode_seed(base: int, index: int) -> int:
    """Seed of episode ``index`` of an evaluation or collection: ``base + index``.

    Deliberately the sum: it is what the published protocols do (Diffusion Policy: 100000 + i), readers can
    reproduce one episode by hand, and environments mix the seed themselves.
    """
    return int(base) + int(index)


def generator(stream: str, *key: int) -> np.random.Generator:
    """NumPy generator for ``key`` in a named stream."""
    return np.random.default_rng(derive_seed(stream, *key))
