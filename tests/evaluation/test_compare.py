"""Comparison of records: pairs by seed, refuses other worlds, warns where it must."""

from __future__ import annotations

import dataclasses

import pytest

from robopolicy.core.errors import ConfigError
from robopolicy.evaluation.compare import compare_records, find_record, table
from robopolicy.evaluation.record import EvaluationRecord
from robopolicy.evaluation.rollout import evaluate
from robopolicy.testing.policies import CoinPolicy, GoalPolicy, StillPolicy


def record(policy=GoalPolicy, n=40, base_seed=0, **kwargs) -> EvaluationRecord:
    env = {"name": "point_reach", "kwargs": {"max_steps": 20, **kwargs}}
    return evaluate(policy.for_point_reach(), env, n, base_seed, workers=0, progress=False)


def test_expert_against_standing_still():
    result = compare_records(record(StillPolicy), record(GoalPolicy))
    assert result.paired.separated
    assert result.paired.difference == 1.0
    assert (result.paired.only_a, result.paired.only_b) == (0, 40)
    assert result.verdict().startswith("B is better than A: B - A = +1.000")
    assert result.warnings == ()
    assert result.paired.reward.mean > 0.5


def test_a_policy_against_itself_is_not_separated():
    result = compare_records(record(CoinPolicy), record(CoinPolicy))
    assert "cannot be told apart" in result.verdict()
    assert result.paired.low < 0 < result.paired.high


def test_too_few_episodes_are_called_that():
    result = compare_records(record(CoinPolicy, n=4), record(GoalPolicy, n=4))
    assert not result.paired.separated
    assert "4 episodes cannot tell A and B apart" in result.verdict()
    assert result.paired.needed is not None
    assert result.paired.needed > 4


def test_every_rate_in_the_table_has_n_and_interval():
    rows = dict(table(compare_records(record(CoinPolicy), record())))
    for name in ("success A", "success B", "success B - A", "max reward B - A"):
        assert "[" in rows[name]
        assert "40" in rows[name]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"env": {"name": "pusht", "kwargs": {}}}, "different environments: A 'point_reach', B 'pusht'"),
        ({"env": {"name": "point_reach", "kwargs": {"max_steps": 99}}}, "max_steps: A 20, B 99"),
        ({"base_seed": 7}, r"different seeds \(A 0, B 7\)"),
        ({"fps": 5.0}, "differ in fps"),
    ],
)
def test_other_worlds_are_refused(change, words):
    a = record(n=3)
    with pytest.raises(ConfigError, match=words):
        compare_records(a, dataclasses.replace(a, **change))


def test_only_common_scored_episodes_count_and_that_is_said():
    broken = record(n=10, faults={"raise": [2]})
    clean = record(n=12)
    broken = dataclasses.replace(broken, env=clean.env)
    result = compare_records(broken, clean)
    assert result.paired.n == 9
    assert "only the 9 episodes that both scored" in result.warnings[0]


def test_other_simulators_and_views_warn():
    a = record(n=3)
    b = dataclasses.replace(
        a,
        versions={**a.versions, "mujoco": "0.0.1"},
        machine={**a.machine, "machine": "riscv"},
        env={"name": "point_reach", "kwargs": {"max_steps": 20, "image": True}},
    )
    assert [w.split(" differs")[0] for w in compare_records(a, b).warnings] == ["image", "mujoco", "machine"]


def test_nothing_in_common_is_refused():
    lost = record(n=2, faults={"raise": [0, 1]})
    with pytest.raises(ConfigError, match="no episode that both scored"):
        compare_records(lost, lost)


def test_find_record_takes_the_newest_of_a_run(tmp_path):
    with pytest.raises(ConfigError, match="no evaluation record"):
        find_record(tmp_path)
    r = record(n=2)
    r.save(tmp_path / "eval" / "b.json")
    newest = r.save(tmp_path / "eval" / "a.json")
    assert find_record(tmp_path) == newest
    assert find_record(newest) == newest
