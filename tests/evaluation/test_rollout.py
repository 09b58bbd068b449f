"""Evaluation measures what it should: known answers, invariance, records, refusals."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from robopolicy.core.errors import (
    ActionSpaceMismatch,
    ConfigError,
    InvalidChunk,
    InvalidObservation,
    PolicyInterfaceError,
)
from robopolicy.core.specs import (
    ENVIRONMENT_STATE,
    TASK,
    ActionSpace,
    FeatureKind,
    FeatureSpec,
    ObservationSpec,
)
from robopolicy.evaluation.record import EvaluationRecord
from robopolicy.evaluation.rollout import evaluate
from robopolicy.testing.envs import PointReach
from robopolicy.testing.policies import CoinPolicy, ConstantPolicy, GoalPolicy, NoisyGoalPolicy, StillPolicy


def run(policy, episodes=20, workers=0, env="point_reach", **kwargs) -> EvaluationRecord:
    return evaluate(policy, env, episodes, workers=workers, progress=False, **kwargs)


def outcomes(record: EvaluationRecord) -> list:
    return [dataclasses.replace(e, wall_s=0.0) for e in record.episodes]


class TestKnownAnswers:
    def test_expert_always_succeeds(self):
        record = run(GoalPolicy.for_point_reach(), 100)
        assert (record.success.rate, record.success.n, record.errors) == (1.0, 100, 0)
        assert record.success.low > 0.96

    def test_standing_still_never_succeeds(self):
        # None of these seeds begins at its goal, so the true rate is exactly 0.
        record = run(StillPolicy.for_point_reach(), 100)
        assert record.success.rate == 0.0
        assert record.success.high < 0.04
        assert {e.length for e in record.episodes} == {60}
        assert record.max_reward.high < 1e-6

    def test_coin_flip_lies_in_its_interval(self):
        """20 evaluations of 40 episodes: about 19 intervals hold the true 0.5 (fewer than 16: once in 400)."""
        env = {"name": "point_reach", "kwargs": {"max_steps": 20}}
        records = [run(CoinPolicy.for_point_reach(), 40, 0, env, base_seed=1000 * i) for i in range(20)]
        assert sum(r.success.low <= 0.5 <= r.success.high for r in records) >= 16
        together = sum(r.success.successes for r in records)
        assert abs(together - 400) < 3 * (800 * 0.25) ** 0.5

    def test_constant_action_runs_anywhere(self):
        policy = ConstantPolicy.for_point_reach()
        record = run(policy, 10)
        assert policy.resets == 1
        env = PointReach()
        for e in record.episodes:
            env.reset(e.seed)
            assert (e.status, e.length > 0) == ("ok", True)


class TestInvariance:
    def test_a_stochastic_policy_gives_the_same_outcomes_for_any_workers_slots_and_laziness(self):
        env = {"name": "point_reach", "kwargs": {"slow_every": 3, "image": True}}
        policy = NoisyGoalPolicy.for_point_reach(image=True)
        reference = outcomes(run(policy, 25, 0, env, base_seed=7))
        assert len({e.length for e in reference}) > 5
        for workers, slots, lazy in ((1, 16, True), (2, 16, True), (4, 16, False), (2, 4, True), (0, 1, False)):
            other = outcomes(run(policy, 25, workers, env, base_seed=7, slots=slots, lazy=lazy))
            assert other == reference, (workers, slots, lazy)

    def test_other_base_seeds_are_other_episodes(self):
        a, b = (run(NoisyGoalPolicy.for_point_reach(), 5, base_seed=s) for s in (0, 5))
        assert [e.seed for e in a.episodes] + [e.seed for e in b.episodes] == list(range(10))
        shared = run(NoisyGoalPolicy.for_point_reach(), 10, base_seed=0)
        assert outcomes(shared)[:5] == outcomes(a)

    def test_errors_are_no_failures(self):
        env = {"name": "point_reach", "kwargs": {"faults": {"raise": [100_002]}}}
        record = run(GoalPolicy.for_point_reach(), 10, 0, env)
        assert (record.errors, record.success.n, record.success.rate) == (1, 9, 1.0)
        assert "1 episodes lost" in record.summary()
        assert [e.index for e in record.episodes if e.status == "error"] == [2]

    def test_an_evaluation_without_any_score_is_still_a_record(self, tmp_path):
        env = {"name": "point_reach", "kwargs": {"faults": {"raise": [100_000, 100_001]}}}
        record = run(GoalPolicy.for_point_reach(), 2, 0, env, out=tmp_path / "none")
        assert record.summary().startswith("success no scored episode")
        assert EvaluationRecord.load(tmp_path / "none.json").errors == 2
        assert json.loads((tmp_path / "none.json").read_text())["totals"]["success"]["rate"] is None


class TestRecord:
    def test_round_trip_and_contents(self, tmp_path):
        record = run(GoalPolicy.for_point_reach(), 12, 2, out=tmp_path / "eval" / "step_000010", step=10)
        file = tmp_path / "eval" / "step_000010.json"
        assert EvaluationRecord.load(file) == record
        data = json.loads(file.read_text())
        assert data["totals"]["success"]["rate"] == 1.0
        assert data["totals"]["success"]["low"] == pytest.approx(record.success.low)
        assert (data["base_seed"], data["slots"], data["workers"], data["step"]) == (100_000, 16, 2, 10)
        assert data["versions"]["numpy"] == np.__version__
        assert data["machine"]["MUJOCO_GL"]
        assert [e["seed"] for e in data["episodes"]] == list(range(100_000, 100_012))
        assert set(data["timing"]["chunk_ms"]) == {"p50", "p95", "p99"}
        assert not list(tmp_path.rglob(".partial*"))

    def test_json_suffix_means_the_same(self, tmp_path):
        run(GoalPolicy.for_point_reach(), 2, out=tmp_path / "a.json")
        assert [p.name for p in tmp_path.iterdir()] == ["a.json"]

    @pytest.mark.parametrize("text", ["{", "[]", '{"format": 99}', '{"format": 1, "episodes": [{"odd": 1}]}'])
    def test_what_is_no_record_is_refused_by_name(self, tmp_path, text):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(ConfigError, match=r"r\.json: not an evaluation record"):
            EvaluationRecord.load(tmp_path / "r.json")
        with pytest.raises(ConfigError, match="cannot read"):
            EvaluationRecord.load(tmp_path / "none.json")

    def test_one_episode_has_no_interval_and_still_saves(self, tmp_path):
        record = run(GoalPolicy.for_point_reach(), 1, out=tmp_path / "one")
        assert json.loads((tmp_path / "one.json").read_text())["totals"]["max_reward"]["low"] is None
        assert record.scalars()["success_rate"] == 1.0


class TestRefusals:
    def test_missing_key(self):
        policy = GoalPolicy.for_point_reach(image=True)
        with pytest.raises(InvalidObservation, match=r"'observation\.images\.top', which environment 'point_reach'"):
            run(policy)

    def test_image_of_another_size(self):
        env = {"name": "point_reach", "kwargs": {"image": True, "image_size": [48, 32]}}
        with pytest.raises(InvalidObservation, match=r"expects \(3, 32, 32\).*gives \(3, 48, 32\); set image_size"):
            run(GoalPolicy.for_point_reach(image=True), 2, 0, env)

    def test_permuted_channels(self):
        policy = GoalPolicy.for_point_reach()
        state, goal = policy.observation_spec.features
        swapped = dataclasses.replace(state, names=("y", "x"))
        policy.observation_spec = ObservationSpec((swapped, goal))
        with pytest.raises(InvalidObservation, match="expects the channels y, x"):
            run(policy)

    @pytest.mark.parametrize(
        ("change", "words"), [({"mode": "delta"}, "mode"), ({"frame": "base"}, "frame"), ({"fps": 20.0}, "rate")]
    )
    def test_other_actions(self, change, words):
        env = PointReach()
        space = ActionSpace(2, ("x", "y"), mode=change.get("mode", "absolute"), frame=change.get("frame", "world"))
        policy = GoalPolicy(space, env.observation_spec, change.get("fps", env.fps))
        with pytest.raises(ActionSpaceMismatch, match=words):
            run(policy)

    def test_no_policy(self):
        with pytest.raises(PolicyInterfaceError, match="it has no act"):
            run(object())

    def test_impossible_wishes(self):
        with pytest.raises(ConfigError, match="episodes must be >= 1"):
            run(GoalPolicy.for_point_reach(), 0)
        with pytest.raises(ConfigError, match="give out"):
            run(GoalPolicy.for_point_reach(), 2, videos=1)

    def test_a_policy_that_breaks_stops_the_evaluation(self):
        """NaN actions are the policy's fault: neither a failure nor a simulator error."""
        policy = ConstantPolicy.for_point_reach()
        policy.value = (float("nan"), 0.0)
        with pytest.raises(InvalidChunk, match="not finite"):
            run(policy)


def test_the_task_text_reaches_a_language_policy():
    seen = []

    class Reader(GoalPolicy):
        def act(self, obs, noise_keys=None, observed_at=0.0):
            seen.append(obs[TASK])
            return super().act({ENVIRONMENT_STATE: obs[ENVIRONMENT_STATE]}, noise_keys, observed_at)

    env = PointReach()
    spec = ObservationSpec((*env.observation_spec.features, FeatureSpec(TASK, (), FeatureKind.LANGUAGE)))
    record = run(Reader(env.action_space, spec, env.fps), 3)
    assert record.success.rate == 1.0
    assert seen[0] == [[env.task] * 2] * 2  # the first half of three slots
