"""What training takes from a dataset: the windows a policy needs, their statistics, and a run's fingerprint."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.core.needs import WindowNeeds
from robopolicy.core.specs import ActionSpec, FeatureKind, FeatureSpec, ObservationSpec
from robopolicy.testing.datasets import make_tiny_dataset
from robopolicy.training.config import DatasetConfig
from robopolicy.training.data import Demonstrations, fingerprint

STATE = "observation.state"
GOAL = FeatureSpec("goal." + STATE, (4,), FeatureKind.GOAL)


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    root = make_tiny_dataset(tmp_path_factory.mktemp("d"), "v3.0", 3, (20, 5, 12))
    return Demonstrations.open(DatasetConfig(path=str(root), val_ratio=0.0))


def open_windows(demos, needs, *goals):
    spec = ObservationSpec((demos.observation_spec[STATE], *goals))
    action = ActionSpec(demos.reader.action_space(), horizon=4, n_obs_steps=2, n_action_steps=2, dt=0.1)
    return demos.windows(spec, action, demos.training, needs)


def test_windows_are_those_the_policy_needs(demos):
    rows = np.array([1])
    assert "chain_is_pad" not in open_windows(demos, WindowNeeds()).gather(rows)
    chained = open_windows(demos, WindowNeeds(chain_stride=2, max_chain=3))
    assert chained.gather(rows)["action"].shape == (1, 3, 4, 2)
    goals = open_windows(demos, WindowNeeds(goal_steps=2), GOAL)
    assert goals.gather(rows, np.array([0.5]))[GOAL.key].shape == (1, 2, 4)


def test_a_goal_has_the_statistics_of_what_it_mirrors(demos):
    stats = demos.stats(ObservationSpec((GOAL, FeatureSpec("observation.images.cam0", (3, 24, 32), FeatureKind.IMAGE))))
    assert set(stats) == {STATE, "action"}
    assert stats[STATE].min == tuple(demos.reader.columns[STATE].min(0).astype(float))


def test_the_fingerprint_knows_the_chains(demos):
    marks = [
        fingerprint(open_windows(demos, needs), demos.reader)
        for needs in (
            WindowNeeds(),
            WindowNeeds(chain_stride=2, max_chain=3),
            WindowNeeds(chain_stride=2, max_chain=4),
            WindowNeeds(chain_stride=1, max_chain=3),
        )
    ]
    assert all(a != b for i, a in enumerate(marks) for b in marks[:i])
    assert all(mark["frames"] == 37 for mark in marks)
    assert marks[1]["windows"] == marks[0]["windows"] == 19 + 4 + 11
