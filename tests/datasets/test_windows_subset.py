"""Property: whatever episodes are chosen, in reader or windows, a window holds the frames a plain loop finds."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robopolicy.datasets.reader import Reader
from robopolicy.datasets.windows import Windows
from robopolicy.testing.datasets import make_tiny_dataset, tiny_episodes

LENGTHS = (3, 17, 1, 9, 24, 8)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    base = tmp_path_factory.mktemp("subsets")
    return {v: make_tiny_dataset(base / v, v, len(LENGTHS), LENGTHS, cameras=0) for v in ("v2.0", "v3.0")}


subsets = st.lists(st.integers(0, len(LENGTHS) - 1), min_size=1, unique=True)
deltas = st.lists(st.integers(-12, 12), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(version=st.sampled_from(["v2.0", "v3.0"]), subset=subsets, wanted=deltas, data=st.data())
def test_any_subset_and_deltas(roots, version, subset, wanted, data):
    reader = Reader(roots[version], episodes=subset)
    used = data.draw(st.lists(st.sampled_from(sorted(subset)), min_size=1, unique=True))
    spec = reader.observation_spec()
    windows = Windows(reader, spec, 1, 2, 1, used, anchors="all", deltas={"action": wanted})
    assert len(windows) == sum(LENGTHS[e] for e in used)
    batch = windows.gather(np.arange(len(windows)))
    row = 0
    for episode in sorted(used):
        actions = tiny_episodes(len(LENGTHS), LENGTHS, 0, (8, 8), 4, 0)[episode].columns["action"]
        for frame in range(LENGTHS[episode]):
            expected = [actions[min(max(frame + d, 0), len(actions) - 1)] for d in wanted]
            np.testing.assert_array_equal(batch["action"][row], expected)
            assert batch["action_is_pad"][row].tolist() == [not 0 <= frame + d < len(actions) for d in wanted]
            assert batch["episode_index"][row] == episode
            assert batch["index"][row] == sum(LENGTHS[:episode]) + frame
            row += 1
