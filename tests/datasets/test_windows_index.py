"""Window sets and clamping: the published oracles, and properties against short references."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robopolicy.core.errors import ConfigError
from robopolicy.datasets.windows_index import (
    all_anchors,
    clamp_rows,
    diffusion_anchors,
    validation_episodes,
    window_count,
)


@pytest.mark.parametrize(("length", "count"), [(20, 13), (9, 2), (8, 1), (7, 0), (5, 0)])
def test_window_counts_of_diffusion_policy(length, count):
    assert window_count(length, 16, 2, 8) == count
    assert len(diffusion_anchors([0], [length], 16, 2, 8)) == count


def test_slots_of_the_first_and_last_window():
    anchors = diffusion_anchors([0], [20], 16, 2, 8)
    rows, is_pad = clamp_rows(anchors, np.array([0, 12]), np.arange(-1, 15))
    assert rows[0].tolist() == [0, *range(15)]
    assert rows[1].tolist() == [*range(11, 20), *[19] * 7]
    assert is_pad[0].tolist() == [True, *[False] * 15]
    assert is_pad[1].tolist() == [*[False] * 9, *[True] * 7]


def test_short_episodes_can_be_kept():
    anchors = diffusion_anchors([0, 5, 25], [5, 20, 3], 16, 2, 8, "pad")
    assert len(anchors) == 1 + 13 + 1
    rows, is_pad = clamp_rows(anchors, np.array([0]), np.arange(-1, 15))
    assert rows[0].tolist() == [0, 0, 1, 2, 3, 4, *[4] * 10]
    assert is_pad[0].sum() == 11
    with pytest.raises(ConfigError, match="'drop' or 'pad'"):
        diffusion_anchors([0], [5], 16, 2, 8, "keep")


def test_validation_split_of_pusht():
    assert validation_episodes(206, 0.02, 42) == (18, 90, 134, 157)
    assert validation_episodes(10, 0.0, 42) == ()
    assert len(validation_episodes(2, 0.9, 0)) == 1
    with pytest.raises(ConfigError, match="below 1"):
        validation_episodes(10, 1.0, 0)


lengths_strategy = st.lists(st.integers(1, 40), min_size=1, max_size=6)
window = st.tuples(st.integers(1, 20), st.integers(1, 4), st.integers(1, 20))


@given(lengths=lengths_strategy, shape=window)
def test_windows_equal_the_originals_loop(lengths, shape):
    horizon, n_obs, n_act = shape
    before, after = min(n_obs - 1, horizon - 1), min(n_act - 1, horizon - 1)
    expected, start = [], 0
    for n in lengths:
        expected += [start + i + n_obs - 1 for i in range(-before, n - horizon + after + 1)]
        start += n
    starts = np.cumsum([0, *lengths[:-1]])
    assert diffusion_anchors(starts, lengths, horizon, n_obs, n_act).row.tolist() == expected


@given(lengths=lengths_strategy, deltas=st.lists(st.integers(-30, 30), min_size=1, max_size=8), data=st.data())
def test_clamping_equals_a_three_line_reference(lengths, deltas, data):
    starts = np.cumsum([0, *lengths[:-1]])
    anchors = all_anchors(starts, lengths)
    chosen = data.draw(st.lists(st.integers(0, len(anchors) - 1), min_size=1, max_size=10))
    rows, is_pad = clamp_rows(anchors, np.array(chosen), np.array(deltas))
    for i, anchor in enumerate(chosen):
        episode = int(np.searchsorted(starts, anchor, side="right")) - 1
        first, last = starts[episode], starts[episode] + lengths[episode] - 1
        assert rows[i].tolist() == [max(first, min(last, anchor + d)) for d in deltas]
        assert is_pad[i].tolist() == [not first <= anchor + d <= last for d in deltas]
