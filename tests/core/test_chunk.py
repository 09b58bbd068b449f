"""Chunks: which steps are executed, when they are due, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.core.chunk import ActionChunk
from robopolicy.core.errors import InvalidChunk
from robopolicy.core.specs import ActionSpace, ActionSpec

SPEC = ActionSpec(ActionSpace(dim=1), horizon=16, n_obs_steps=2, n_action_steps=8, dt=0.1)
RAMP = np.arange(16, dtype=np.float32).reshape(1, 16, 1)


def test_slice_executes_one_to_eight():
    chunk = ActionChunk.stamped(RAMP, SPEC)
    assert chunk.executable[0, :, 0].tolist() == list(range(1, 9))


def test_first_executed_step_is_stamped_with_the_newest_observation():
    chunk = ActionChunk.stamped(RAMP, SPEC, observed_at=5.0)
    assert chunk.stamps[0, 1] == 5.0
    np.testing.assert_allclose(np.diff(chunk.stamps[0]), 0.1)


@pytest.mark.parametrize(("late", "first"), [(0.0, 1), (0.05, 2), (0.2, 3), (0.25, 4), (9.0, None)])
def test_late_steps_are_dropped_not_run_late(late, first):
    actions, stamps = ActionChunk.stamped(RAMP, SPEC, observed_at=5.0).due(5.0 + late, slack=1e-9)
    if first is None:
        assert len(actions) == 0
    else:
        assert actions[0, 0] == first
        assert (stamps >= 5.0 + late - 1e-9).all()


@pytest.mark.parametrize("bad", [np.zeros((1, 15, 1)), np.zeros((16, 1)), np.zeros((1, 16, 2))])
def test_wrong_shape_is_refused(bad):
    with pytest.raises(InvalidChunk, match=r"expected \(B, 16, 1\)"):
        ActionChunk(bad, np.zeros(bad.shape[:2]), SPEC)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_actions_never_become_a_chunk(value):
    actions = RAMP.copy()
    actions[0, 3, 0] = value
    with pytest.raises(InvalidChunk, match="not finite"):
        ActionChunk.stamped(actions, SPEC)
