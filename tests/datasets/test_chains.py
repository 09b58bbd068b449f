"""Chains: the published oracle, every window once, padding, and the windows that an evaluation sees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robopolicy.core.errors import ConfigError
from robopolicy.core.needs import WindowNeeds
from robopolicy.datasets.chains import ChainedWindows, interleaved_chains
from robopolicy.datasets.reader import Reader
from robopolicy.datasets.windows import Windows
from robopolicy.testing.datasets import make_tiny_dataset

CAMERA = "observation.images.cam0"


def listed(chains):
    windows, is_pad = chains.windows(np.arange(len(chains)), int(chains.length.max()))
    return [row[~pad].tolist() for row, pad in zip(windows, is_pad, strict=True)]


def test_published_chains():
    chains = interleaved_chains(np.array([10, 4]), 6, 40)
    assert listed(chains) == [[0, 6], [1, 7], [2, 8], [3, 9], [4], [5], [10], [11], [12], [13]]


def test_long_chains_are_cut_every_max_chain_windows():
    chains = listed(interleaved_chains(np.array([15]), 3, 2))
    assert chains == [[0, 3], [6, 9], [12], [1, 4], [7, 10], [13], [2, 5], [8, 11], [14]]


def test_padding_repeats_the_last_window():
    windows, is_pad = interleaved_chains(np.array([10, 4]), 6, 40).windows(np.array([6, 1]), 4)
    assert windows.tolist() == [[10, 10, 10, 10], [1, 7, 7, 7]]
    assert is_pad.tolist() == [[False, True, True, True], [False, False, True, True]]


@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=5), stride=st.integers(1, 9), max_chain=st.integers(1, 12)
)
def test_every_window_is_in_one_chain_of_its_episode(counts, stride, max_chain):
    chains = listed(interleaved_chains(np.array(counts), stride, max_chain))
    assert sorted(w for chain in chains for w in chain) == list(range(sum(counts)))
    episode = np.repeat(np.arange(len(counts)), counts)
    for chain in chains:
        assert 1 <= len(chain) <= max_chain
        assert (np.diff(chain) == stride).all()
        assert len(set(episode[chain])) == 1


def test_impossible_chains_are_refused():
    with pytest.raises(ConfigError, match="at least 1, got 2 and 0"):
        interleaved_chains(np.array([3]), 2, 0)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return Reader(make_tiny_dataset(tmp_path_factory.mktemp("c"), "v3.0", 3, (20, 5, 12), cameras=1, size=(24, 32)))


@pytest.fixture(scope="module")
def chained(reader):
    plain = Windows(reader, reader.observation_spec(), 3, 8, 6, in_memory=True, progress=False, short_episodes="pad")
    return ChainedWindows(plain, WindowNeeds(chain_stride=6, max_chain=4))


def test_batches_are_the_plain_windows_with_one_more_axis(chained):
    batch = chained.gather(np.array([0, 7]))
    shapes = {key: values.shape for key, values in batch.items()}
    assert shapes == {
        CAMERA: (2, 4, 3, 3, 24, 32),
        "observation.state": (2, 4, 3, 4),
        "action": (2, 4, 8, 2),
        "action_is_pad": (2, 4, 8),
        "index": (2, 4),
        "episode_index": (2, 4),
        "chain_is_pad": (2, 4),
    }
    windows, is_pad = chained.chains.windows(np.array([0, 7]), 4)
    np.testing.assert_array_equal(batch["chain_is_pad"], is_pad)
    for row in range(2):
        for slot in range(4):
            alone = chained.plain.gather(windows[row, slot : slot + 1])
            for key in alone:
                np.testing.assert_array_equal(batch[key][row, slot], alone[key][0])


def test_chains_follow_the_episode_and_count_their_padding(chained):
    batch = chained.gather(np.arange(len(chained)))
    real = ~batch["chain_is_pad"]
    assert (
        sorted(batch["index"][real].tolist()) == chained.plain.gather(np.arange(len(chained.plain)))["index"].tolist()
    )
    assert chained.padding == pytest.approx(1 - real.mean())
    assert chained.layout == {"windows": 37, "chains": 6 + 5 + 6, "chain_stride": 6, "max_chain": 4}
    for chain in batch["episode_index"]:
        assert len(set(chain.tolist())) == 1


def test_offset_zero_is_what_an_evaluation_sees(reader, chained):
    """First plan: the episode's first frame, repeated to fill the window; then every ``n_action_steps`` frames."""
    for episode, chain in zip(reader.episodes, np.flatnonzero(begins(chained, reader)), strict=True):
        batch = chained.gather(np.array([chain]))
        real = ~batch["chain_is_pad"][0]
        states = reader.columns["observation.state"][episode.start : episode.stop]
        seen = [states[0]] * 3
        t = 0
        for slot in np.flatnonzero(real):
            np.testing.assert_array_equal(batch["observation.state"][0, slot], np.stack(seen[-3:]))
            assert batch["index"][0, slot] == episode.start + t
            executed = batch["action"][0, slot, 2:8]
            in_reach = reader.columns["action"][episode.start : episode.stop][t : t + 6]
            np.testing.assert_array_equal(executed[: len(in_reach)], in_reach)
            seen += list(states[t + 1 : t + 7])
            t += 6


def begins(chained, reader):
    """Which chains start at the first frame of an episode."""
    first = chained.gather(np.arange(len(chained)))["index"][:, 0]
    return np.isin(first, [e.start for e in reader.episodes])
