"""Chains of windows for policies with a memory: windows one plan apart, so that a state can be carried along them.

Source: SeedPolicy's interleaved chains (spec seed_policy, section 5.3): the windows of an episode fall into ``stride``
chains, one for each offset, and a chain is cut after ``max_chain`` windows.  Differs: a training sample is a whole
chain, unrolled inside one optimiser step, instead of one window a step with a detached state in between.  Use it when
``policy.needs.chained``; the chain of offset 0 reads exactly the windows of an evaluation that replans every
``stride`` frames, beginning with the left-padded window of an episode's first frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from robopolicy.core.errors import ConfigError
from robopolicy.core.needs import WindowNeeds
from robopolicy.core.specs import CHAIN_IS_PAD
from robopolicy.datasets.cache import FrameCache
from robopolicy.datasets.windows import Windows


@dataclass(frozen=True)
class Chains:
    """Chain ``i`` is the windows ``start[i] + stride * j`` for ``j < length[i]``; ``start`` and ``length`` ``(M,)``."""

    start: np.ndarray
    length: np.ndarray
    stride: int

    def __len__(self) -> int:
        return len(self.start)

    def windows(self, chains: np.ndarray, slots: int) -> tuple[np.ndarray, np.ndarray]:
        """Windows ``(B, slots)`` of ``chains`` ``(B,)``, the last one repeated, and where they are padding."""
        step = np.arange(slots)
        last = self.length[chains, None] - 1
        return self.start[chains, None] + self.stride * np.minimum(step, last), step > last


def interleaved_chains(counts: np.ndarray, stride: int, max_chain: int) -> Chains:
    """Chains over episodes of ``counts`` windows, numbered end to end; every window is in exactly one chain.

    Episodes of 10 and 4 windows with stride 6 give [0, 6] [1, 7] [2, 8] [3, 9] [4] [5] [10] [11] [12] [13].  Longer
    chains are cut every ``max_chain`` windows; what follows a cut is a chain of its own.
    """
    if stride < 1 or max_chain < 1:
        raise ConfigError(f"chains need a stride and a length of at least 1, got {stride} and {max_chain}")
    starts, lengths = [], []
    begin = 0
    for count in np.asarray(counts, np.int64).tolist():
        for offset in range(min(stride, count)):
            whole = (count - offset + stride - 1) // stride
            for cut in range(0, whole, max_chain):
                starts.append(begin + offset + cut * stride)
                lengths.append(min(max_chain, whole - cut))
        begin += count
    return Chains(np.array(starts, np.int64), np.array(lengths, np.int64), stride)


class ChainedWindows:
    """The chains of ``windows``, with the interface of ``Windows``: an item is one chain.

    Every batch has ``needs.max_chain`` slots, whatever its chains, because training noise is drawn for as many and a
    batch must not depend on its neighbours.  Shorter chains are padded by repeating their last window, which costs as
    much as a real one: set ``max_chain`` near the usual chain, (episode length) / ``chain_stride``; ``padding`` says
    what share is wasted.  One batch of B chains holds B * max_chain windows.
    """

    def __init__(self, windows: Windows, needs: WindowNeeds) -> None:
        self.plain, self.slots = windows, needs.max_chain
        self.reader, self.episodes = windows.reader, windows.episodes
        self.observation_spec = windows.observation_spec
        changes = np.flatnonzero(np.diff(windows.anchors.first)) + 1
        counts = np.diff(np.concatenate([[0], changes, [len(windows)]]))
        self.chains = interleaved_chains(counts, needs.chain_stride, needs.max_chain)

    def __len__(self) -> int:
        return len(self.chains)

    @property
    def caches(self) -> Mapping[str, FrameCache]:
        """The frame cache of every camera gathered."""
        return self.plain.caches

    @property
    def padding(self) -> float:
        """Share of the slots that repeat a window, over all chains."""
        return 1.0 - len(self.plain) / (len(self) * self.slots)

    @property
    def layout(self) -> dict[str, int]:
        """What a continued run must find again."""
        return {**self.plain.layout, "chains": len(self), "chain_stride": self.chains.stride, "max_chain": self.slots}

    def gather(self, indices: np.ndarray, draws: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Batch of the chains ``indices`` ``(B,)``: every key of ``Windows.gather`` as ``(B, max_chain, ...)``.

        ``chain_is_pad`` ``(B, max_chain)`` bool is True in slots that repeat the chain's last window.
        A chain has one goal (``draws`` ``(B,)``), after its last window, as an episode of an evaluation has.
        """
        chosen, is_pad = self.chains.windows(np.asarray(indices, np.int64), self.slots)
        each = None if draws is None else np.repeat(draws, self.slots)
        flat = self.plain.gather(chosen.reshape(-1), each, futures=np.repeat(chosen[:, -1], self.slots))
        batch = {key: values.reshape(*chosen.shape, *values.shape[1:]) for key, values in flat.items()}
        batch[CHAIN_IS_PAD] = is_pad
        return batch
