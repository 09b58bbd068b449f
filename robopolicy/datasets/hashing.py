"""One number for the exact content of an episode, to prove that what was written is what was meant."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np


def hash_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, shapes, dtypes and values of the arrays, in the order of their names."""
    digest = hashlib.sha256()
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key])
        digest.update(f"{key}:{array.shape}:{array.dtype.str};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
