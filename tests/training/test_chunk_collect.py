"""Rounds of collection: the episodes as they were, the same for every number of workers, on Ray too."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from robopolicy.core.errors import ActionSpaceMismatch, ConfigError, InvalidObservation
from robopolicy.core.improver import Explored, ReplayLayout
from robopolicy.core.specs import (
    ACTION,
    ENVIRONMENT_STATE,
    STATE,
    TASK,
    ActionSpace,
    FeatureKind,
    FeatureSpec,
    ObservationSpec,
)
from robopolicy.policies.registry import make_policy, policy_config
from robopolicy.rl.explorers import PolicyExplorer
from robopolicy.rl.replay import Replay
from robopolicy.rl.transitions import EpisodeChunks
from robopolicy.sim.pool import EpisodePool, episode_list
from robopolicy.sim.protocol import StepResult
from robopolicy.sim.ray_session import quietly
from robopolicy.sim.registry import EnvConfig
from robopolicy.testing.envs import TOP, PointReach
from robopolicy.testing.heads import tiny_options
from robopolicy.testing.policies import GoalPolicy, NoisyGoalPolicy, StillPolicy
from robopolicy.testing.tiny import TINY_ENCODER, unit_stats
from robopolicy.training.chunk_collect import collect_round

# Episodes of different lengths, so that they end in another order than they began; 22 is no multiple of 4 or 5.
KWARGS = {"slow_every": 3, "max_steps": 22}
SEED = 40


def layout_of(explorer, n_obs_steps: int = 2, latent_shape=None, keys: Sequence[str] = ()) -> ReplayLayout:
    spec = PointReach(image=True).observation_spec
    features = spec.select(keys or (STATE, ENVIRONMENT_STATE)).features
    action = explorer.action_spec
    return ReplayLayout(features, n_obs_steps, action.n_action_steps, action.dim, latent_shape, 0.9)


def noisy(**changes: int) -> PolicyExplorer:
    policy = NoisyGoalPolicy.for_point_reach(**changes)
    policy.scale = 0.3  # some targets lie outside the bounds, and some episodes fail
    return PolicyExplorer(policy)


def collect(explorer, layout=None, episodes=7, workers=0, slots=4, env=None, ray="", **changes):
    """Episodes in the order of their index, and the results."""
    found: list[EpisodeChunks] = []
    config = env or EnvConfig("point_reach", KWARGS)
    layout = layout or layout_of(explorer)
    with EpisodePool(config, workers, slots, ray=ray) as pool:
        queue = episode_list(episodes, SEED)
        results = collect_round(pool, explorer, queue, SEED, layout, found.append, **changes)
    return sorted(found, key=lambda e: e.index), results


def digest(episodes: Sequence[EpisodeChunks]) -> str:
    hashed = hashlib.sha256()
    for e in episodes:
        for values in (*e.observations.values(), e.action, e.latent, e.step_rewards, e.step_successes):
            hashed.update(b"" if values is None else np.ascontiguousarray(values).tobytes())
        hashed.update(repr((e.index, e.seed, e.terminated, e.truncated, e.env_steps, e.round)).encode())
    return hashed.hexdigest()


@pytest.mark.parametrize(("policy_steps", "n_obs_steps", "k"), [(2, 2, 4), (1, 3, 4), (2, 1, 1), (3, 3, 5)])
def test_episodes_replay_in_the_environment(policy_steps, n_obs_steps, k):
    explorer = noisy(n_obs_steps=policy_steps, n_action_steps=k, horizon=8)
    episodes, results = collect(explorer, layout_of(explorer, n_obs_steps), round_number=3)
    assert [e.index for e in episodes] == [r.index for r in results] == list(range(7))
    assert {e.success for e in episodes} == {True, False}
    env = PointReach(**KWARGS)
    for episode in episodes:
        env.reset(episode.seed)
        seen, step = [env.observe()] * n_obs_steps, 0
        for decision, action in enumerate(episode.action):
            for key in (STATE, ENVIRONMENT_STATE):
                stacked = np.stack([o[key] for o in seen[-n_obs_steps:]])
                np.testing.assert_array_equal(episode.observations[key][decision], stacked)
            executed = action[: len(episode.step_rewards) - step]
            for one in executed:
                outcome = env.step(one)
                seen.append(env.observe())
                assert episode.step_rewards[step] == outcome.reward
                assert episode.step_successes[step] == outcome.success
                step += 1
            assert (np.abs(action) <= 1).all()  # as executed: clipped
            assert (action[len(executed) :] == executed[-1]).all()  # what was not executed repeats the last
        assert outcome.done
        assert (episode.terminated, episode.truncated) == (outcome.terminated, outcome.truncated)
        assert step == episode.env_steps == results[episode.index].length
        assert episode.round == 3
        for key in (STATE, ENVIRONMENT_STATE):
            last = episode.observations[key][-1]
            np.testing.assert_array_equal(last[-1], seen[-1][key])
            if episode.truncated:  # its successor counts, so all of its steps are the true ones
                np.testing.assert_array_equal(last, np.stack([o[key] for o in seen[-n_obs_steps:]]))


def test_a_time_limit_inside_a_chunk_keeps_the_bootstrap(tmp_path):
    explorer = PolicyExplorer(StillPolicy.for_point_reach())
    episodes, _ = collect(explorer, episodes=2)
    layout = layout_of(explorer)
    replay = Replay.create(tmp_path, layout)
    for episode in episodes:
        replay.add(episode)
    batch = replay.upto(1).batch(np.array([4, 5]))
    assert batch["n"].tolist() == [4, 2]  # 22 steps
    np.testing.assert_allclose(batch["discount"], [0.9**4, 0.9**2], rtol=1e-6)
    np.testing.assert_allclose(batch["reward"], [-(1 + 0.9 + 0.81 + 0.729), -1.9], rtol=1e-6)
    np.testing.assert_allclose(batch["mc_return"], -10, rtol=1e-6)
    assert batch["truncated"].tolist() == [False, True]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers):
    image = {**KWARGS, "image": True, "image_size": [64, 96]}
    env = EnvConfig("point_reach", image)
    features = (
        *PointReach().observation_spec.features,
        PointReach(image=True, image_size=(64, 96)).observation_spec[TOP],
    )
    explorer = noisy()
    layout = dataclasses.replace(layout_of(explorer), features=features)
    reference, told = collect(explorer, layout, env=env)
    assert reference[0].observations[TOP].dtype == np.uint8
    episodes, results = collect(explorer, layout, workers=workers, env=env)
    assert digest(episodes) == digest(reference)
    assert [dataclasses.replace(r, wall_s=0.0) for r in results] == [dataclasses.replace(r, wall_s=0.0) for r in told]
    assert digest(collect(explorer, layout, slots=1, env=env)[0]) == digest(reference)  # nor does company


@pytest.mark.slow
def test_ray_changes_nothing():
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'robopolicy[ray]'")
    reference, _ = collect(noisy())
    episodes, _ = collect(noisy(), workers=2, ray="local")
    quietly(gc.collect)  # what Ray leaves to the garbage collector
    assert digest(episodes) == digest(reference)


def test_lost_episodes_are_left_out_and_second_tries_are_whole(tmp_path):
    clean, _ = collect(noisy())
    faulty = {**KWARGS, "faults": {"crash": [42], "raise": [45]}, "fault_step": 5}
    episodes, results = collect(noisy(), workers=2, env=EnvConfig("point_reach", faulty))
    assert [r.status for r in results] == ["ok", "ok", "error", "ok", "ok", "error", "ok"]
    assert digest(episodes) == digest([e for e in clean if e.seed not in (42, 45)])
    again = EnvConfig("point_reach", {**faulty, "fault_once_dir": str(tmp_path)})
    assert digest(collect(noisy(), workers=2, env=again)[0]) == digest(clean)


class GoesOn(PointReach):
    """Success ends nothing, as in many simulators."""

    def step(self, action: np.ndarray) -> StepResult:
        done = super().step(action)
        return dataclasses.replace(done, terminated=False, truncated=self._steps >= self.max_steps)


class GoesOnConfig(EnvConfig):
    def make(self) -> GoesOn:
        return GoesOn(**self.kwargs)


def test_success_ends_the_episode_for_learning_only():
    env = GoesOnConfig("point_reach", {"max_steps": 30})
    explorer = PolicyExplorer(GoalPolicy.for_point_reach())
    cut, results = collect(explorer, env=env)
    whole, _ = collect(explorer, env=env, cut_success=False)
    assert [r.length for r in results] == [30] * 7
    for short, long in zip(cut, whole, strict=True):
        assert (short.terminated, short.truncated) == (True, False)
        assert (long.terminated, long.truncated) == (False, True)
        assert short.step_successes.tolist() == [False] * (len(short.step_successes) - 1) + [True]
        assert len(short.step_successes) == results[short.index].first_success_step < 30
        assert short.env_steps == long.env_steps == 30
        assert len(long.step_rewards) == 30


# ------------------------------------------------------------------------------------------------- real policies


def tiny_actor(head: str, language: bool = False):
    """A policy with the point's observations; ``language``: it reads the task, too."""
    env = PointReach()
    spec = env.observation_spec
    options = tiny_options(head, "unet", "state")
    if language:
        spec = ObservationSpec((*spec.features, FeatureSpec(TASK, (), FeatureKind.LANGUAGE)))
        words = dataclasses.replace(TINY_ENCODER.language, vocabulary=(env.task, "stay"))
        options["encoder"] = dataclasses.replace(TINY_ENCODER, language=words)
    stats = {key: unit_stats(2) for key in (STATE, ENVIRONMENT_STATE, ACTION)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = policy_config({**options, "observation_keys": list(spec.keys)})
        return make_policy(config, spec, env.action_space, env.fps, stats).eval()


def alone(policy, index: int) -> list[np.ndarray]:
    """The chunks of an episode that is run by hand."""
    env = PointReach(**KWARGS)
    env.reset(SEED + index)
    seen, chunks, done = [env.observe()] * 2, [], False
    named = {"episodes": ["me"]} if policy.recurrent else {}
    policy.reset()
    while not done:
        obs = {key: np.stack([o[key] for o in seen[-2:]])[None] for key in (STATE, ENVIRONMENT_STATE)}
        if TASK in policy.observation_spec:
            obs[TASK] = [[env.task] * 2]
        chunk = policy.act(obs, noise_keys=[(SEED, index, len(chunks))], **named).executable[0]
        chunks.append(chunk)
        for action in chunk:
            done = env.step(action).done
            seen.append(env.observe())
            if done:
                break
    policy.reset()
    return chunks


@pytest.mark.parametrize(("head", "language"), [("seed_policy", False), ("diffusion", True)])
def test_memories_and_sentences_reach_the_policy(head, language):
    policy = tiny_actor(head, language)
    assert policy.recurrent == (head == "seed_policy")
    episodes, _ = collect(PolicyExplorer(policy), episodes=5, slots=3)
    assert {len(e) for e in episodes} == {6}
    for episode in episodes:
        chunks = alone(policy, episode.index)
        np.testing.assert_allclose(episode.action[:5], chunks[:5], atol=2e-5)  # the last one was cut


class LatentExplorer(PolicyExplorer):
    """Stores the noise that its chunks are decoded from."""

    def explore(self, obs, noise_keys, episodes=None) -> Explored:
        latent = self.policy.noise_of(noise_keys)[0]
        return Explored(super().explore(obs, noise_keys, episodes).chunk, latent.numpy())


def test_latents_decode_to_the_actions_they_are_stored_with(tmp_path):
    policy = tiny_actor("flow")
    layout = layout_of(policy, latent_shape=policy.latent_shape)
    replay = Replay.create(tmp_path, layout)
    for episode in collect(LatentExplorer(policy), layout, episodes=3)[0]:
        replay.add(episode)
    view = replay.upto(1)
    batch = view.batch(np.arange(len(view)))
    ctx = policy.encode({f.key: batch[f.key] for f in layout.features})
    with torch.no_grad():
        chunks = policy.norm.to_phys(policy.decode(ctx, torch.from_numpy(batch["latent"]))).numpy()
    whole = batch["n"] == layout.k
    assert whole.sum() > 6
    executed = chunks[:, policy.action_spec.exec_slice].clip(-1, 1)
    np.testing.assert_allclose(batch["action"][whole], executed[whole], atol=2e-5)


# ---------------------------------------------------------------------------------------------------- refusals


def test_a_layout_that_does_not_fit_is_refused():
    explorer = noisy()
    layout = layout_of(explorer)
    with pytest.raises(ConfigError, match="layout has k=3, but 4 are executed"):
        collect(explorer, dataclasses.replace(layout, k=3))
    with pytest.raises(InvalidObservation, match=f"'{TOP}', which environment 'point_reach' does not give"):
        collect(explorer, layout_of(explorer, keys=(STATE, TOP)))
    wide = dataclasses.replace(layout, features=(FeatureSpec(STATE, (3,), FeatureKind.STATE),))
    with pytest.raises(InvalidObservation, match=r"stores \(3,\), environment 'point_reach' gives \(2,\)"):
        collect(explorer, wide)
    with pytest.raises(ConfigError, match="the explorer gave none"):
        collect(explorer, layout_of(explorer, latent_shape=(8, 2)))
    env = PointReach()
    other = GoalPolicy(ActionSpace(3), env.observation_spec, env.fps)
    with pytest.raises(ActionSpaceMismatch):
        collect(PolicyExplorer(other), layout)
