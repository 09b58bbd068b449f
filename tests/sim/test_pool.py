"""The pool's promises: same episodes, batches and results for any number of workers; lost workers cost no score."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from robopolicy.core.errors import ConfigError, EnvUnavailable
from robopolicy.core.specs import ENVIRONMENT_STATE, STATE
from robopolicy.sim.pool import Batch, EpisodePool, EpisodeResult, Film, Watch, episode_list
from robopolicy.sim.pool_links import ProcessLink
from robopolicy.sim.registry import EnvConfig
from robopolicy.testing.envs import TOP, PointReach

KEYS = (STATE, ENVIRONMENT_STATE)


def config(**kwargs) -> EnvConfig:
    return EnvConfig("point_reach", kwargs)


def to_goal(batch: Batch) -> np.ndarray:
    return np.repeat(batch.observation[ENVIRONMENT_STATE][:, -1:], 4, axis=1)


def without_time(results: list[EpisodeResult]) -> list[EpisodeResult]:
    return [dataclasses.replace(r, wall_s=0.0) for r in results]


class Recorder:
    """A planner that writes down every batch it sees: who, which chunk, which bits."""

    def __init__(self, plan=to_goal) -> None:
        self.plan, self.batches = plan, []

    def __call__(self, batch: Batch) -> np.ndarray:
        digest = hashlib.sha256(b"".join(v.tobytes() for v in batch.observation.values())).hexdigest()
        self.batches.append((tuple(e.index for e in batch.episodes), batch.chunks, digest))
        return self.plan(batch)


def test_every_number_of_workers_gives_the_same_bits():
    """Results, batch composition and every observation bit agree for 0, 1, 2 and 4 processes (lengths differ)."""
    seen = {}
    env = config(image=True, image_size=(64, 48), slow_every=3)  # large enough to go through the slots' files
    for workers in (0, 1, 2, 4):
        recorder = Recorder()
        with EpisodePool(env, workers, slots=6, n_obs_steps=2, obs_keys=(*KEYS, TOP)) as p:
            results = p.run(episode_list(17, 40), recorder)
        seen[workers] = (without_time(results), recorder.batches)
    assert [r.seed for r in seen[0][0]] == list(range(40, 57))
    assert len({r.length for r in seen[0][0]}) > 4
    assert seen[0] == seen[1] == seen[2] == seen[4]


@pytest.mark.parametrize("n_action_steps", [1, 4])
def test_lazy_rendering_changes_nothing_but_the_work(monkeypatch, n_action_steps):
    drawn = []
    original = PointReach._draw
    monkeypatch.setattr(PointReach, "_draw", lambda self, h, w: drawn.append(1) or original(self, h, w))
    outcome = {}
    for lazy in (True, False):
        drawn.clear()
        recorder = Recorder(lambda b: to_goal(b)[:, :n_action_steps])
        with EpisodePool(config(image=True), 0, 4, n_obs_steps=2, obs_keys=(*KEYS, TOP), lazy=lazy) as pool:
            results = pool.run(episode_list(6, 0), recorder)
        outcome[lazy] = (without_time(results), recorder.batches, len(drawn))
    assert outcome[True][:2] == outcome[False][:2]
    # Of each full chunk of n steps the policy reads 2: 6 resets and at most 2 a chunk.
    planned = sum(len(b[0]) for b in outcome[True][1])
    assert outcome[True][2] <= 6 + min(2, n_action_steps) * planned
    if n_action_steps == 4:
        assert outcome[False][2] > 1.5 * outcome[True][2]


@pytest.mark.parametrize("max_steps", [12, 14])
def test_the_end_is_observed_when_asked_for_and_costs_no_more_than_a_window(monkeypatch, max_steps):
    """Chunks of 5 and windows of 3: 2 or 4 steps of the last chunk are executed, and what they ended in is observed."""
    drawn = []
    original = PointReach._draw
    monkeypatch.setattr(PointReach, "_draw", lambda self, h, w: drawn.append(1) or original(self, h, w))
    ends, counts = {}, {}
    for final in (True, False):
        drawn.clear()
        seen = []
        with EpisodePool(config(image=True, max_steps=max_steps), 0, 1) as pool:
            pool.watch = Watch(3, (STATE, TOP), final=final)
            still = lambda b: np.repeat(b.observation[STATE][:, -1:] + 0.01, 5, axis=1)
            pool.run(episode_list(1, 0), still, on_reply=lambda episode, reply, seen=seen: seen.append(reply))
        ends[final], counts[final] = seen[-1].observation, len(drawn)
    assert ends[False] is None
    env = PointReach(image=True, max_steps=max_steps)
    env.reset(0)
    states = [env.observe([STATE])[STATE]]
    for reply in seen:
        newest = states[-1]
        for _ in reply.rewards:
            env.step(newest + 0.01)
            states.append(env.observe([STATE])[STATE])
    np.testing.assert_array_equal(ends[True][STATE], np.stack(states[-3:]))
    assert ends[True][TOP].shape == (3, 3, 32, 32)
    assert counts[False] < counts[True] <= counts[False] + 3


def test_initial_states_do_not_depend_on_the_policy():
    """Fast and slow policies (episodes end at other times) visit the same list of initial states."""
    starts = []
    for plan in (to_goal, lambda b: np.repeat(b.observation[STATE][:, -1:], 3, axis=1)):
        first: dict[int, bytes] = {}

        def spy(batch: Batch, plan=plan, first=first) -> np.ndarray:
            for i, (episode, chunk) in enumerate(zip(batch.episodes, batch.chunks, strict=True)):
                if chunk == 0:
                    first[episode.index] = b"".join(batch.observation[k][i].tobytes() for k in KEYS)
            return plan(batch)

        with EpisodePool(config(max_steps=20), 0, 4, obs_keys=KEYS) as pool:
            pool.run(episode_list(12, 7), spy)
        starts.append(first)
    assert len(starts[0]) == 12
    assert starts[0] == starts[1]


@pytest.mark.parametrize("seed", range(8))
def test_every_episode_is_scored_once_whatever_the_shape(seed):
    rng = np.random.default_rng(seed)
    episodes, slots, steps = int(rng.integers(1, 20)), int(rng.integers(1, 9)), int(rng.integers(1, 6))
    finished: list[int] = []
    with EpisodePool(config(slow_every=int(rng.integers(2, 5))), 0, slots, obs_keys=KEYS) as pool:
        results = pool.run(
            episode_list(episodes, seed),
            lambda b: to_goal(b)[:, :1].repeat(steps, 1),
            lambda r: finished.append(r.index),
        )
    assert [r.index for r in results] == list(range(episodes)) == sorted(finished)
    assert all(r.success and r.first_success_step == r.length for r in results)
    assert [r.chunks for r in results] == [-(-r.length // steps) for r in results]


def test_results_agree_with_a_plain_loop():
    with EpisodePool(config(slow_every=2), 2, 4, obs_keys=KEYS) as pool:
        results = pool.run(episode_list(5, 3), to_goal)
    env = PointReach(slow_every=2)
    for result in results:
        env.reset(result.seed)
        rewards = []
        while True:
            step = env.step(env.goal.astype(np.float32))
            rewards.append(step.reward)
            if step.done:
                break
        assert (result.length, result.success) == (len(rewards), step.success)
        assert (result.max_reward, result.last_reward) == (max(rewards), rewards[-1])
        assert result.sum_reward == pytest.approx(sum(rewards), abs=1e-12)


def test_history_starts_with_copies_of_the_first_observation():
    seen = []

    def plan(batch: Batch) -> np.ndarray:
        seen.append(batch.observation[STATE].copy())
        return to_goal(batch)[:, :1]

    with EpisodePool(config(), 0, 1, n_obs_steps=3, obs_keys=KEYS) as pool:
        pool.run(episode_list(1, 5), plan)
    assert (seen[0][0] == seen[0][0, 0]).all()
    np.testing.assert_array_equal(seen[1][0, :2], seen[0][0, 1:])
    assert (seen[1][0, 2] != seen[1][0, 1]).any()


class TestLostSimulators:
    @pytest.mark.parametrize(("fault", "workers"), [("crash", 2), ("hang", 2), ("raise", 0), ("nan_reward", 2)])
    def test_a_broken_episode_is_an_error_and_the_rest_is_untouched(self, fault, workers):
        with EpisodePool(config(), 0, 4, obs_keys=KEYS) as pool:
            clean = without_time(pool.run(episode_list(9, 0), to_goal))
        # Seed 3 has 13 steps, so step 3 exists.
        with EpisodePool(config(faults={fault: [3]}), workers, 4, obs_keys=KEYS, timeout_s=2.5) as pool:
            results = without_time(pool.run(episode_list(9, 0), to_goal))
        assert results[3].status == "error"
        assert (results[3].attempts, results[3].success) == (2, False)
        words = {"crash": "exit code 13", "hang": "no answer", "raise": "injected fault", "nan_reward": "reward nan"}
        assert words[fault] in (results[3].error or "")
        if fault == "hang":  # on a starved machine an innocent chunk may take as long, once
            results = [dataclasses.replace(r, attempts=1) for r in results]
        assert results[:3] + results[4:] == clean[:3] + clean[4:]

    def test_a_fault_that_happens_once_costs_nothing(self, tmp_path):
        env = config(faults={"crash": [3, 4], "raise": [5]}, fault_once_dir=str(tmp_path))
        with EpisodePool(env, 2, 4, obs_keys=KEYS) as pool:
            results = pool.run(episode_list(9, 0), to_goal)
        assert all(r.status == "ok" and r.success for r in results)
        assert [r.index for r in results if r.attempts == 2] == [3, 4, 5]

    def test_a_worker_killed_from_outside_costs_no_episode(self):
        calls = []

        def plan(batch: Batch) -> np.ndarray:
            calls.append(1)
            if len(calls) in (3, 6):
                link = pool._links[0]
                assert isinstance(link, ProcessLink)
                os.kill(link.pid or 0, signal.SIGKILL)
            return to_goal(batch)

        with EpisodePool(config(slow_every=2), 2, 4, obs_keys=KEYS) as pool:
            results = pool.run(episode_list(12, 0), plan)
        assert [r.status for r in results] == ["ok"] * 12
        assert all(r.success for r in results)

    def test_an_environment_that_cannot_be_built_says_so(self):
        with EpisodePool(config(colour="red"), 1, 2) as pool, pytest.raises(ConfigError, match="no argument 'colour'"):
            pool.describe()
        with (
            EpisodePool(EnvConfig("os:_exit", {"status": 3}), 1) as pool,
            pytest.raises(EnvUnavailable, match="code 3"),
        ):
            pool.describe()

    def test_a_missing_part_of_the_machine_stops_the_run(self, monkeypatch):
        def no_picture(self, keys=None):
            raise EnvUnavailable("no OpenGL backend can draw here")

        monkeypatch.setattr(PointReach, "observe", no_picture)
        with EpisodePool(config(), 0, 4, obs_keys=KEYS) as pool, pytest.raises(EnvUnavailable, match="OpenGL"):
            pool.run(episode_list(6, 0), to_goal)

    def test_after_an_error_in_the_policy_the_pool_is_clean(self):
        def broken(batch: Batch) -> np.ndarray:
            raise RuntimeError("policy")

        with EpisodePool(config(), 2, 4, obs_keys=KEYS) as pool:
            with pytest.raises(RuntimeError, match="policy"):
                pool.run(episode_list(6, 0), broken)
            assert all(r.success for r in pool.run(episode_list(6, 0), to_goal))


class TestWorkers:
    @pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
    def test_workers_never_load_torch(self):
        maps = []

        def plan(batch: Batch) -> np.ndarray:
            maps.append(Path(f"/proc/{pool._links[0].pid}/maps").read_text())
            return to_goal(batch)

        with EpisodePool(config(), 1, 2, obs_keys=KEYS) as pool:
            pool.run(episode_list(1, 0), plan)
        assert "numpy" in maps[-1]
        assert "torch" not in maps[-1]

    def test_workers_do_not_import_the_main_module_again(self, tmp_path):
        """A script without an ``if __name__`` guard works: workers are programs of their own."""
        script = tmp_path / "script.py"
        script.write_text(
            "print('main')\n"
            "from robopolicy.sim.pool import EpisodePool, episode_list\n"
            "from robopolicy.sim.registry import EnvConfig\n"
            "with EpisodePool(EnvConfig('point_reach'), 2, 2, obs_keys=('observation.environment_state',)) as pool:\n"
            "    plan = lambda b: b.observation['observation.environment_state'][:, -1:].repeat(4, 1)\n"
            "    print(len(pool.run(episode_list(3, 0), plan)))\n"
        )
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.split() == ["main", "3"]

    def test_workers_end_with_their_parent(self, tmp_path):
        script = tmp_path / "parent.py"
        script.write_text(
            "import os, signal\n"
            "from robopolicy.sim.pool import EpisodePool\n"
            "from robopolicy.sim.registry import EnvConfig\n"
            "pool = EpisodePool(EnvConfig('point_reach'), 1, 1)\n"
            "pool.describe()\n"
            "print(pool._links[0].pid, pool._links[0]._depot_name, flush=True)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)
        pid, depot = int(done.stdout.split()[0]), Path(done.stdout.split()[1])
        deadline = time.monotonic() + 20
        while Path(f"/proc/{pid}/cmdline").exists() and b"pool_worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
            assert time.monotonic() < deadline, "the worker outlived its parent"
            time.sleep(0.05)
        assert not depot.exists()

    def test_close_leaves_no_process(self):
        pool = EpisodePool(config(), 2, 4, obs_keys=KEYS)
        pool.run(episode_list(4, 0), to_goal)
        processes = [link._process for link in pool._links]
        depots = [Path(link._depot_name) for link in pool._links]
        assert all(d.is_dir() for d in depots)
        pool.close()
        assert [p.poll() is not None for p in processes] == [True, True]
        assert not any(d.exists() for d in depots)


def test_film_has_the_reset_and_every_step():
    reels: dict[int, list[np.ndarray]] = {}
    with EpisodePool(config(), 1, 4, obs_keys=KEYS) as pool:
        film = Film(frozenset({1, 2}), (24, 40), lambda e, r: reels.setdefault(e.index, []).extend(r.frames))
        results = pool.run(episode_list(5, 0), to_goal, film=film)
    assert sorted(reels) == [1, 2]
    assert [len(reels[i]) for i in (1, 2)] == [results[i].length + 1 for i in (1, 2)]
    assert {f.shape for f in reels[1]} == {(24, 40, 3)}


@pytest.mark.parametrize("kwargs", [{"slots": 0}, {"workers": -1}, {"n_obs_steps": 0}])
def test_impossible_numbers_are_refused(kwargs):
    with pytest.raises(ConfigError, match="got"):
        EpisodePool(config(), **{"workers": 0, **kwargs})


def test_wrong_plans_are_refused():
    with EpisodePool(config(), 0, 2, obs_keys=KEYS) as pool:
        with pytest.raises(ConfigError, match=r"expected \(1, n_action_steps"):
            pool.run(episode_list(2, 0), lambda b: np.zeros((3, 4, 2)))
        with pytest.raises(ConfigError, match="not unique"):
            pool.run(episode_list(1, 0) * 2, to_goal)
