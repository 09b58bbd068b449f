"""Base samples of observations, drawn once and kept: what an update of PA-RL would otherwise spend its time on.

Source: PA-RL's code caches the samples of its large base; here every base is cached, by observation, so that the next
observation of one transition and the observation of the following one share theirs.
Everything is a function of the base's weights, the seed, the version and the observation: what has been forgotten is
drawn again as it was, and a resumed run needs no cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robopolicy.core.seeding import generator as keyed_generator
from robopolicy.policies.acting import Acting
from robopolicy.wrappers.base import Wrapper

ROWS_AT_ONCE = 256  # chunks decoded together; groups are of one size, so that a sample does not depend on its company


class BaseSamples:
    """``K`` chunks of ``policy`` for each observation.  ``B`` observations, ``H`` horizon, ``D`` action channels."""

    def __init__(self, policy: Acting, count: int, seed: int = 0, megabytes: int = 1024) -> None:
        self.policy, self.count, self.seed = policy, count, seed
        self.version = 0
        self.keys = policy.observation_spec.keys
        self.group = max(1, ROWS_AT_ONCE // count)
        shape = (count, policy.action_spec.horizon, policy.action_spec.dim)
        self.capacity = max(1, megabytes * 2**20 // (4 * int(np.prod(shape))))
        self._store = torch.empty(0, *shape, device=policy.device)
        self._slots: dict[bytes, int] = {}
        self._names: list[bytes] = []
        self._next = 0
        self.drawn = 0  # observations sampled so far

    def renew(self, version: int) -> None:
        """Forget everything; what is drawn from now on is of another ``version``."""
        self.version = version
        self._slots.clear()
        self._names.clear()
        self._next = 0

    @torch.no_grad()
    def __call__(self, obs: Mapping[str, np.ndarray]) -> Tensor:
        """``(B, K, H, D)`` in the policy's model space for physical observations ``(B, n_obs_steps, ...)``."""
        names = self._named(obs)
        new = {name: row for row, name in enumerate(names) if name not in self._slots}
        # Copied out first: what this call adds may take the room of what it needs.
        known = [row for row, name in enumerate(names) if name in self._slots]
        out = self._store.new_empty(len(names), *self._store.shape[1:])
        if known:
            out[known] = self._store[[self._slots[names[row]] for row in known]]
        if new:
            rows, fresh = list(new.values()), self._draw(obs, list(new.items()))
            at = {names[row]: i for i, row in enumerate(rows)}
            missing = [row for row, name in enumerate(names) if name in at]
            out[missing] = fresh[[at[names[row]] for row in missing]]
            self._keep(list(new), fresh)
        return out

    def _named(self, obs: Mapping[str, np.ndarray]) -> list[bytes]:
        """A digest of every row."""
        columns = [np.ascontiguousarray(obs[key]) for key in self.keys]
        flat = [column.reshape(len(column), -1).view(np.uint8) for column in columns]
        if len(flat) > 1:
            flat = [np.concatenate(flat, axis=1)] if sum(f.shape[1] for f in flat) < 4096 else flat
        digests = []
        for row in range(len(columns[0])):
            digest = hashlib.blake2b(digest_size=16)
            for column in flat:
                digest.update(column[row].data)
            digests.append(digest.digest())
        return digests

    def _draw(self, obs: Mapping[str, np.ndarray], new: list[tuple[bytes, int]]) -> Tensor:
        """Samples ``(N, K, H, D)`` of the rows of ``new``, in groups of one size, the last filled up."""
        parts = []
        for begin in range(0, len(new), self.group):
            part = new[begin : begin + self.group]
            filled = part + [part[-1]] * (self.group - len(part))
            rows = [row for _, row in filled]
            group: Any = {key: obs[key][rows] for key in self.keys}
            ctx = self.policy.encode(group).repeat_interleave(self.count)
            chunks = self._decoded(ctx, [name for name, _ in filled])
            parts.append(chunks.unflatten(0, (self.group, self.count))[: len(part)])
        self.drawn += len(new)
        return torch.cat(parts).float()

    def _decoded(self, ctx: Any, names: list[bytes]) -> Tensor:
        """Chunks ``(N * K, H, D)``, each observation's from a stream of its own."""
        policy, count = self.policy, self.count
        streams = [(self.seed, self.version, *(int.from_bytes(n[i : i + 8], "little") for i in (0, 8))) for n in names]
        if isinstance(policy, Wrapper):  # may need more noise than a latent
            keys = [(*key, j) for key in streams for j in range(count)]
            return policy._chunks(ctx, keys, range(len(keys)))[0]
        shape = (count, 1 + policy.tape_len, *policy.latent_shape)
        drawn = np.empty((len(names), *shape), np.float32)
        for i, key in enumerate(streams):
            keyed_generator("policy", *key).standard_normal(dtype=np.float32, out=drawn[i])
        noise = torch.from_numpy(drawn).flatten(0, 1).to(policy.device)
        return policy.decode(ctx, noise[:, 0], tape=noise[:, 1:] if policy.tape_len else None)

    def _keep(self, names: list[bytes], chunks: Tensor) -> None:
        """Store new samples; when the memory is full the oldest make room."""
        for name, chunk in zip(names, chunks, strict=True):
            self._store_one(name, chunk)

    def _store_one(self, name: bytes, chunk: Tensor) -> None:
        slot = self._next % self.capacity
        if slot < len(self._names):
            del self._slots[self._names[slot]]
            self._names[slot] = name
        else:
            self._names.append(name)
            if slot >= len(self._store):
                room = min(self.capacity, max(1024, 2 * len(self._store)))
                grown = self._store.new_empty(room, *self._store.shape[1:])
                grown[: len(self._store)] = self._store
                self._store = grown
        self._store[slot], self._slots[name] = chunk, slot
        self._next += 1


def windows(obs: Mapping[str, Any], keys: tuple[str, ...], prefix: str = "") -> dict[str, np.ndarray]:
    """The entries ``prefix + key`` of a batch as arrays, under their own keys."""
    return {key: np.asarray(obs[prefix + key]) for key in keys}
