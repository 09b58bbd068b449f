"""Execution modes in simulation: nothing changes without latency, the environment goes on with it, all is counted."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from robopolicy.cli.evaluate import execution_options
from robopolicy.cli.main import main
from robopolicy.core.chunk import ActionChunk
from robopolicy.core.errors import ConfigError, MissingCapability
from robopolicy.core.seeding import episode_seed
from robopolicy.core.specs import ACTION, ENVIRONMENT_STATE, STATE, ActionSpace, ActionSpec, ChannelKind
from robopolicy.evaluation.execution import HELD, ExecutingPlanner, Totals, Track, resting, summary
from robopolicy.evaluation.record import EvaluationRecord
from robopolicy.evaluation.rollout import evaluate
from robopolicy.evaluation.run_data import read_run
from robopolicy.paths.linear import LinearFlow
from robopolicy.policies.flow import FlowConfig
from robopolicy.policies.io import save_policy
from robopolicy.policies.registry import make_policy
from robopolicy.sim.pool import Batch, Episode, EpisodeResult
from robopolicy.testing.envs import PointReach
from robopolicy.testing.heads import tiny_head
from robopolicy.testing.policies import GoalPolicy, NoisyGoalPolicy
from robopolicy.testing.teacher_policy import Layout, TeacherPolicy
from robopolicy.testing.teachers import Teacher
from robopolicy.testing.tiny import TINY_UNET, unit_stats
from robopolicy.wrappers.execution import ExecutionConfig, make_executor
from robopolicy.wrappers.execution.policy import real_time
from robopolicy.wrappers.execution.timeline import Timeline

DT = 0.1
SPEC = ActionSpec(ActionSpace(1), horizon=8, n_obs_steps=1, n_action_steps=4, dt=DT)


def run(policy, mode=None, episodes=12, env="point_reach", workers=0, slots=16, **options) -> EvaluationRecord:
    execution = None if mode is None else ExecutionConfig(mode=mode, **options)
    return evaluate(policy, env, episodes, workers=workers, slots=slots, progress=False, execution=execution)


def outcomes(record: EvaluationRecord) -> list:
    return [dataclasses.replace(e, wall_s=0.0) for e in record.episodes]


def flow(**changes):
    env = PointReach()
    torch.manual_seed(0)
    config = FlowConfig(horizon=8, n_action_steps=4, n_obs_steps=2, unet=TINY_UNET, num_inference_steps=5, **changes)
    stats = {key: unit_stats(2) for key in (STATE, ENVIRONMENT_STATE, ACTION)}
    return make_policy(config, env.observation_spec, env.action_space, env.fps, stats).eval()


class TestNothingChangesWithoutLatency:
    def test_the_default_executes_the_executable_part_of_every_chunk_by_hand(self):
        """An independent loop over one episode after another: what evaluation did before there were modes."""
        policy, env = NoisyGoalPolicy.for_point_reach(), PointReach()
        record = run(policy, episodes=4)
        for told in record.episodes:
            env.reset(told.seed)
            keys = tuple(policy.observation_spec.keys)
            history, rewards, done, number = [env.observe(keys)] * 2, [], False, 0
            while not done:
                obs = {k: np.stack([o[k] for o in history[-2:]])[None] for k in keys}
                chunk = policy.act(obs, noise_keys=[(100_000, told.index, number)])
                number += 1
                for action in chunk.executable[0]:
                    result = env.step(action)
                    rewards.append(float(result.reward))
                    history.append(env.observe(keys))
                    if done := result.done:
                        break
            assert told.seed == episode_seed(100_000, told.index)
            assert (told.length, told.chunks, told.sum_reward) == (len(rewards), number, float(np.sum(rewards)))

    @pytest.mark.parametrize("mode", ["sync", "receding"])
    @pytest.mark.parametrize("make", [NoisyGoalPolicy.for_point_reach, flow])
    def test_sync_and_receding_without_latency_are_the_default_to_the_last_bit(self, mode, make):
        env = {"name": "point_reach", "kwargs": {"max_steps": 25}}
        plain, timed = run(make(), env=env), run(make(), mode, env=env)
        assert outcomes(plain) == outcomes(timed)
        assert plain.execution == {}
        assert timed.execution["starved_steps"] == timed.execution["late_steps"] == 0
        assert timed.execution["executed_steps"] == sum(e.length for e in timed.episodes)

    def test_a_default_record_says_nothing_of_execution_and_old_ones_are_read(self, tmp_path):
        policy = GoalPolicy.for_point_reach()
        evaluate(policy, "point_reach", 2, workers=0, progress=False, out=tmp_path / "eval" / "plain")
        config = ExecutionConfig(mode="async", latency=0.2)
        evaluate(policy, "point_reach", 3, workers=0, progress=False, out=tmp_path / "eval" / "x", execution=config)
        assert "execution" not in json.loads((tmp_path / "eval" / "plain.json").read_text())
        loaded = EvaluationRecord.load(tmp_path / "eval" / "x.json")
        assert loaded.execution["mode"] == "async"
        assert "d = 2" in summary(loaded.execution)
        assert len(read_run(tmp_path).headline.record.episodes) == 2  # delays are injected: not the policy's number


class TestTracks:
    """Chunk n says ``100 n + control step`` for each of its steps, so that what was executed tells its chunk."""

    def play(self, mode, latency, pieces=4, most=100, **options):
        executor = make_executor(mode, SPEC, latency=latency, **options)
        track = Track(executor, Timeline(1, DT, 1))
        for number in range(1, pieces + 1):
            steps = 100.0 * number + track.step + np.arange(8)
            chunk = ActionChunk.stamped(steps[None, :, None], SPEC, track.now)
            track.segment(chunk, latency, most)
        return track, np.concatenate(track.actions).tolist()

    def test_async_goes_on_with_the_old_plan_while_it_thinks(self):
        track, sent = self.play("async", 0.1)
        # asked at 0, 2, 4, ...: two of four steps remain, one passes, so each chunk's step 0 is late
        assert track.asked == [0, 2, 4, 6]
        assert sent == [100, 101, 102, 203, 204, 305, 306, 407]
        assert track.late == [(3, 1), (5, 1), (7, 1)]

    def test_receding_runs_the_rest_of_its_chunk_and_then_holds(self):
        track, sent = self.play("receding", 0.6, pieces=3, steps=4)
        assert track.asked == [0, 4, 10]  # the answer of 4 is there at 10, and its s steps are over already
        assert sent == [*range(100, 108), 107, 107, 210, 211, 211, 211, 211, 211]
        assert track.chunks.count(HELD) == 6
        assert track.late == [(10, 6), (16, 6)]

    def test_sync_holds_and_loses_nothing(self):
        track, sent = self.play("sync", 0.2, pieces=2)
        assert sent == [100, 101, 102, 103, 103, 103, 204, 205, 206, 207]
        assert track.late == []

    def test_ensemble_asks_every_d_steps(self):
        track, _ = self.play("ensemble", 0.3, pieces=4)
        assert track.asked == [0, 1, 4, 7]

    def test_rtc_asks_after_s_steps(self):
        track, sent = self.play("rtc", 0.2, pieces=3, steps=3)
        assert track.asked == [0, 3, 6]
        assert sent == [100, 101, 102, 103, 104, 205, 206, 207, 308]

    def test_an_episode_is_no_longer_than_it_may_be(self):
        _, sent = self.play("receding", 0.0, pieces=3, most=10)
        assert len(sent) == 10

    def test_totals_count_what_was_executed_only(self):
        track, _ = self.play("receding", 0.6, pieces=3, steps=4)
        totals = Totals()
        totals.add(track, 9, None)
        told = totals.told()
        assert (told["executed_steps"], told["starved_steps"], told["late_steps"], told["inferences"]) == (9, 1, 0, 2)
        totals = Totals()
        totals.add(track, 12, np.array([2.0]))
        assert (totals.starved, totals.late) == (2, 6)
        assert totals.border == [103 / 2]  # from the held 107 to 210
        assert totals.inside == [0.5] * 8


class TestHolding:
    def test_positions_are_repeated_and_motions_end(self):
        kinds = (ChannelKind.EUCLIDEAN, *[ChannelKind.ROT6D] * 6, ChannelKind.BINARY)
        last = np.full(8, 0.3, np.float32)
        assert np.array_equal(resting(ActionSpace(8, kinds=kinds, mode="absolute"), last), last)
        held = resting(ActionSpace(8, kinds=kinds, mode="delta"), last)
        assert held == pytest.approx([0, 1, 0, 0, 0, 1, 0, 0.3])


class TestWithLatency:
    @pytest.mark.parametrize("mode", ["async", "ensemble", "rtc"])
    def test_results_are_the_same_for_any_workers_and_slots(self, mode):
        policy = flow() if mode == "rtc" else NoisyGoalPolicy.for_point_reach()
        env = {"name": "point_reach", "kwargs": {"max_steps": 12}}
        first = run(policy, mode, 6, env, latency=0.2)
        for workers, slots in ((0, 16), (1, 16)):
            again = run(policy, mode, 6, env, workers, slots, latency=0.2)
            assert outcomes(again) == outcomes(first)
            assert again.execution == first.execution
        if mode != "rtc":  # a network's last bits depend on the rows of a batch
            assert outcomes(run(policy, mode, 6, env, 0, 2, latency=0.2)) == outcomes(first)

    def test_a_slow_policy_starves_and_says_so(self):
        record = run(GoalPolicy.for_point_reach(), "sync", latency=0.5)
        told = record.execution
        assert told["delay_steps"] == 5
        assert 0.3 < told["starved_steps"] / told["executed_steps"] < 0.7
        assert record.success.rate == 1.0  # holding a position is still going there

    def test_an_episode_that_is_tried_again_begins_anew(self):
        env = {"name": "point_reach", "kwargs": {"faults": {"raise": [100_002]}}}
        record = run(GoalPolicy.for_point_reach(), "async", 6, env, latency=0.2)
        assert record.errors == 1
        assert record.execution["executed_steps"] == sum(e.length for e in record.scored)

    def test_real_time_chunking_keeps_the_mode_that_asynchronous_chunks_leave(self):
        """Chunks are all at 0.5 or all at -0.5, at random: half of the borders of plain chunks are leaps."""
        leaps = {}
        for mode in ("async", "rtc"):
            layout = Layout(horizon=8, dim=2, n_action_steps=4, space=ActionSpace(2))
            policy = TeacherPolicy(WholeModes(LinearFlow(0)), LinearFlow(0).grid(20, "linear"), layout=layout)
            config = ExecutionConfig(mode=mode, latency=0.2, steps=4)
            planner = ExecutingPlanner(real_time(policy), 7, "", config, 200)
            episodes = tuple(Episode(i, i) for i in range(8))
            lengths = np.zeros(8, int)
            for number in range(12):
                batch = Batch({STATE: np.zeros((8, 1, 1), np.float32)}, episodes, (number,) * 8)
                lengths += [len(piece) for piece in planner(batch)]
            for episode, length in zip(episodes, lengths, strict=True):
                planner.settle(EpisodeResult(episode.index, episode.seed, "ok", length=int(length)))
            told = planner.report()
            assert told["border_jump"]["n"] > 60
            assert told["inside_step"]["p99"] < 0.05
            leaps[mode] = float(np.mean(np.array(planner._totals.border) > 0.5))
        assert 0.3 < leaps["async"] < 0.7
        assert leaps["rtc"] < 0.1

    def test_a_single_answer_is_timed_as_the_run_asks_for_it(self, monkeypatch):
        """A guided answer takes longer than a plain one, so the guided one is timed."""
        layout = Layout(horizon=8, dim=2, n_action_steps=4, space=ActionSpace(2))
        policy = real_time(TeacherPolicy(WholeModes(LinearFlow(0)), LinearFlow(0).grid(4, "linear"), layout=layout))
        planner = ExecutingPlanner(policy, 7, "", ExecutionConfig(mode="rtc", steps=4), 200)
        planner(Batch({STATE: np.zeros((1, 1, 1), np.float32)}, (Episode(0, 0),), (0,)))
        seen, act = [], policy.act
        monkeypatch.setattr(policy, "act", lambda *a, guide=None, **k: seen.append(guide) or act(*a, guide=guide, **k))
        assert set(planner.single_ms(calls=3, seconds=0.0)) == {"p50", "p95", "p99"}
        assert len(seen) == 5
        assert all((guide.weights == 1).all() for guide in seen)


@dataclass(frozen=True, eq=False)
class WholeModes(Teacher):
    """Data: a chunk of 0.5 everywhere, or of -0.5 everywhere."""

    def clean(self, z, alpha, sigma):
        share = torch.sigmoid(alpha * z.sum((1, 2), keepdim=True) / sigma**2)
        return (share - 0.5).expand_as(z)


class TestRefusals:
    def test_a_head_that_cannot_be_guided(self):
        with pytest.raises(MissingCapability, match="SCORE"):
            run(tiny_head("ebt", "unet").eval(), "rtc")
        with pytest.raises(MissingCapability, match="type: real_time"):
            ExecutingPlanner(GoalPolicy.for_point_reach(), 0, "", ExecutionConfig(mode="rtc"), 10)

    def test_rtc_beyond_its_bounds_names_the_numbers(self):
        with pytest.raises(ConfigError, match=r"d = 4 .* s = 3, H = 7"):
            run(flow(), "rtc", latency=0.4)

    def test_a_memory_of_another_stride(self):
        policy = GoalPolicy.for_point_reach()
        policy.needs = type("Needs", (), {"chain_stride": 4})()
        ExecutingPlanner(policy, 0, "", ExecutionConfig(mode="receding", latency=0.2), 10)
        with pytest.raises(ConfigError, match="asks every 1 steps; choose mode and steps so that it asks every 4"):
            ExecutingPlanner(policy, 0, "", ExecutionConfig(mode="ensemble"), 10)


class TestCommandLine:
    def test_options(self):
        rest, config = execution_options(
            "rtc", "0.2", ["--execution.steps", "5", "--env.x", "1", "--execution.decay=0.1"]
        )
        assert rest == ["--env.x", "1"]
        assert config == ExecutionConfig(mode="rtc", latency=0.2, steps=5, decay=0.1)
        assert execution_options(None, "timed", ["--env.x", "1"]) == (["--env.x", "1"], None)
        for mode, latency, rest in ((None, "0.2", []), (None, None, ["--execution.steps", "5"])):
            with pytest.raises(ConfigError, match="go with --execution MODE"):
                execution_options(mode, latency, rest)
        with pytest.raises(ConfigError, match="latency"):
            execution_options("async", "soon", [])

    def test_evaluate_from_end_to_end(self, tmp_path, capsys):
        save_policy(flow(), tmp_path / "flow")
        words = ["--env", "point_reach", "--env.max_steps", "12", "--episodes", "3", "--workers", "0", "--quiet"]
        command = ["evaluate", str(tmp_path / "flow"), *words, "--out", str(tmp_path / "r")]
        assert main([*command, "--execution", "rtc", "--latency", "0.2", "--execution.steps", "3"]) == 0
        assert "execution rtc, latency 0.2 s (d = 2), s = 3" in capsys.readouterr().out
        record = EvaluationRecord.load(tmp_path / "r.json")
        assert record.execution["mode"] == "rtc"
        assert record.policy["settings"]["jacobian"] == "true"
        assert "prefix_error" in record.info
        assert main([*command, "--latency", "0.2"]) == 2
        assert "--execution MODE" in capsys.readouterr().err
