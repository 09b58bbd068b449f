"""The PA-RL improver: what it refuses, what each update teaches, that it resumes, saves, and improves policies."""

from __future__ import annotations

import copy
import logging
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import robopolicy
from robopolicy.core.configs import build_config
from robopolicy.core.errors import (
    ActionSpaceMismatch,
    CheckpointError,
    ConfigError,
    MissingCapability,
    UntrainableComposite,
)
from robopolicy.core.improver import IMPROVERS, Beginning
from robopolicy.core.specs import ACTION, STATE
from robopolicy.policies.base import Policy
from robopolicy.resources import resource
from robopolicy.rl import improvers  # noqa: F401 - registers the methods
from robopolicy.rl.config import CriticConfig
from robopolicy.rl.pa_rl import CRITIC, DISTIL, IMITATE, OFFLINE, PARLImprover, build
from robopolicy.rl.pa_rl_config import PARLConfig
from robopolicy.rl.pa_rl_parts import chunk_weights, learning_policy
from robopolicy.testing.heads import BACKBONES, tiny_head
from robopolicy.testing.point_mass import PointMass, bandit, drawn, joined
from robopolicy.testing.reranking import GaussianPolicy
from robopolicy.testing.tiny import random_observation
from robopolicy.wrappers.compose import ComposedPolicy
from robopolicy.wrappers.steer import PriorActor, SteeredPolicy

BATCH = 16
QUICK: dict[str, Any] = {
    "batch_size": BATCH,
    "num_samples": 4,
    "keep": 3,
    "steps": 2,
    "eta": 0.05,
    "eta_mode": "unit_norm",
    "ema": 0.1,
    "critic": {"hidden": (16, 16), "ensemble": 3, "hl_gauss": None, "cal_ql": {"samples": 2}},
}


def base(head: str = "flow", **changes: Any) -> Policy:
    return tiny_head(head, BACKBONES[head][0], "state", horizon=4, n_action_steps=2, **changes)


def improver(policy: Any = None, **changes: Any) -> PARLImprover:
    policy = base() if policy is None else policy
    stats = policy.stats if hasattr(policy, "stats") else policy.parents[0].stats
    made = build(PARLConfig(**{**QUICK, **changes}), Beginning(policy, policy.observation_spec, stats, 3, True))
    assert isinstance(made, PARLImprover)
    return made


def acts(policy: Any):
    """How the worlds of ``testing.point_mass`` ask a policy."""
    return lambda obs, seed: policy.act(obs, [(seed, row) for row in range(len(obs[STATE]))]).executable


def transitions(policy: Any, rows: int = 64, seed: int = 0) -> dict[str, np.ndarray]:
    return bandit(acts(policy), rows, seed)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module: torch.nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(value, before[name]) for name, value in module.state_dict().items())


# ------------------------------------------------------------------------------------------------ what is learned


@pytest.mark.parametrize("critic", ["cal_ql", "iql", "rlpd"])
def test_each_kind_of_update_teaches_its_own_part_and_is_a_function_of_its_inputs(critic):
    first, again = (improver(critic={**QUICK["critic"], "type": critic}) for _ in range(2))
    data = transitions(first.average)
    for kind, seed in [(OFFLINE, 0), (DISTIL, 1), (CRITIC, 2)]:
        live, average, values = weights(first.live), weights(first.average), weights(first.critic)
        told = [made.step(kind, drawn(data, BATCH, seed), rng(seed)) for made in (first, again)]
        assert told[0] == told[1]
        assert all(np.isfinite(list(told[0].values())))
        assert changed(first.live, live) == changed(first.average, average) == (kind == DISTIL)
        assert changed(first.critic, values) == (kind != DISTIL)
    for name, value in first.modules().state_dict().items():
        assert torch.equal(value, again.modules().state_dict()[name]), name


@pytest.mark.parametrize("head", [h for h in BACKBONES if h not in ("seed_policy", "diffuser_actor_3d")])
def test_every_trainable_head_is_distilled_by_its_own_loss(head):
    made = improver(base(head))
    data, before = transitions(made.average), weights(made.live)
    told = made.step(DISTIL, drawn(data, BATCH, 0), rng(0))
    assert told["base_loss"] > 0
    assert changed(made.live, before)
    assert made.step(CRITIC, drawn(data, BATCH, 0), rng(0))["critic_loss"] > 0


def test_p8_the_winning_data_action_is_the_target_of_distillation():
    """A critic that only likes the data's action: every target is that action, and only its steps count."""
    made = improver(steps=0, distil="argmax")
    data = {k: v[:BATCH] for k, v in transitions(made.average).items()}
    best = torch.as_tensor(data[ACTION])
    made.drawn.scorer.judge = lambda own, a: -(a - best[:, None]).flatten(2).norm(dim=-1)  # type: ignore[method-assign]
    data["n"][3] = 1
    target, mask, told = made.base_updates.targets(data, rng(0))
    assert told["data_share"] == 1.0
    torch.testing.assert_close(target[:, 1:3], best)
    assert torch.equal(mask[0], torch.tensor([0.0, 1.0, 1.0, 0.0]))
    assert torch.equal(mask[3], torch.tensor([0.0, 1.0, 0.0, 0.0]))


def test_p15_targets_weigh_the_tail_less_and_keep_it():
    made = improver(data_in_pool=False, distil="argmax", num_samples=1, keep=1, max_jump=None)
    data = {k: v[:BATCH] for k, v in transitions(made.average).items()}
    target, mask, told = made.base_updates.targets(data, rng(0))
    sampled = made.drawn.samples({STATE: data[STATE]})[:, 0]
    assert torch.equal(target[:, [0, 3]], sampled[:, [0, 3]])
    assert not torch.equal(target[:, 1:3], sampled[:, 1:3])
    assert torch.equal(mask, torch.tensor([0.25, 1.0, 1.0, 0.25]).expand(BATCH, 4))
    assert told["moved"] > 0
    assert torch.equal(chunk_weights(base(), 1, 0.5)[0], torch.tensor([0.5, 1.0, 1.0, 0.5]))


def test_p14_ten_copies_of_one_action_are_a_warning_and_draws_are_not(caplog):
    data = transitions(base())
    for policy, warned in [("legacy", True), ("argmax", False), ("softmax", False)]:
        made = improver(target_policy=policy)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            made.step(CRITIC, drawn(data, BATCH, 0), rng(0))
            made.step(CRITIC, drawn(data, BATCH, 1), rng(1))
        assert caplog.text.count("weighs copies") == warned, policy


def test_the_control_imitates_successful_actions_and_asks_no_critic():
    made = improver(imitate="data")
    data = transitions(made.average)
    batch, live, values = drawn(data, BATCH, 0), weights(made.live), weights(made.critic)
    assert 0 < batch["success"].sum() < BATCH
    told = made.step(IMITATE, batch, rng(0))
    assert told["rows"] == batch["success"].sum()
    assert changed(made.live, live)
    assert not changed(made.critic, values)
    other = copy.deepcopy(batch)
    other[ACTION][~other["success"]] = 0.9  # what failed episodes did is not looked at
    assert improver(imitate="data").step(IMITATE, other, rng(0))["base_loss"] == pytest.approx(told["base_loss"])
    nothing = {**batch, "success": np.zeros(BATCH, bool)}
    before = weights(made.live)
    assert made.step(IMITATE, nothing, rng(1))["rows"] == 0.0
    assert not changed(made.live, before)
    assert list(made.candidates()) == ["base"]
    assert [w.kind for w in made.online_work(10, 20)] == [IMITATE]
    assert not made.offline_work()


# ---------------------------------------------------------------------------------------------- plan, resume, save


def test_the_plan_is_the_critic_offline_then_the_base_then_the_critic():
    made = improver(offline_steps=7, base_utd=0.5, critic_utd=2.0)
    assert [(w.kind, w.steps, w.mixing) for w in made.offline_work()] == [(OFFLINE, 7, 1.0)]
    assert [(w.kind, w.steps) for w in made.online_work(5, 10)] == [(DISTIL, 2), (CRITIC, 10)]
    assert [(w.kind, w.steps) for w in made.online_work(5, 10)] == [(DISTIL, 3), (CRITIC, 10)]  # the half is not lost
    by_step = improver(utd_unit="env_step")
    assert [w.steps for w in by_step.online_work(5, 10)] == [10, 10]
    assert (made.layout.k, made.layout.n_obs_steps, made.layout.gamma) == (2, 2, 0.99)
    assert IMPROVERS.get("pa_rl").config_class is PARLConfig


def test_the_critics_moments_are_forgotten_when_the_online_stage_begins():
    made = improver(offline_steps=1)
    data = transitions(made.average)
    made.step(OFFLINE, drawn(data, BATCH, 0), rng(0))
    made.step(OFFLINE, drawn(data, BATCH, 1), rng(1))
    state = made.optimizers()["critic"].state
    assert {float(s["step"]) for s in state.values()} == {2.0}
    made.step(DISTIL, drawn(data, BATCH, 2), rng(2))
    assert not state
    made.step(CRITIC, drawn(data, BATCH, 3), rng(3))
    assert {float(s["step"]) for s in state.values()} == {1.0}


def test_another_improver_with_this_ones_state_goes_on_alike():
    first, second = improver(refresh=2), improver(refresh=2)
    data = transitions(first.average)
    for number, kind in enumerate([OFFLINE, DISTIL, DISTIL, DISTIL, CRITIC]):
        first.step(kind, drawn(data, BATCH, number), rng(number))
    second.modules().load_state_dict(first.modules().state_dict())
    for name, optimizer in first.optimizers().items():
        second.optimizers()[name].load_state_dict(copy.deepcopy(optimizer.state_dict()))
    second.load_extra_state(first.extra_state())
    assert second.extra_state()["version"] == 1
    for number, kind in enumerate([CRITIC, DISTIL, CRITIC], start=9):
        told = [made.step(kind, drawn(data, BATCH, number), rng(number)) for made in (first, second)]
        assert told[0] == told[1]
    with pytest.raises(CheckpointError, match="counters"):
        second.load_extra_state({"online": True})


def test_what_is_saved_is_what_was_measured(tmp_path):
    made = improver()
    data = transitions(made.average)
    for number, kind in enumerate([DISTIL, CRITIC]):
        made.step(kind, drawn(data, BATCH, number), rng(number))
    obs, keys = {STATE: data[STATE][:3]}, [(1, row) for row in range(3)]
    for changes in ({}, {"imitate": "data"}):
        own = made if not changes else improver(**changes)
        folder = tmp_path / str(len(changes))
        folder.mkdir()
        loaded = robopolicy.load(own.save(folder, "somewhere/base"))
        first = next(iter(own.candidates().values()))
        np.testing.assert_array_equal(loaded.act(obs, keys).actions, first.act(obs, keys).actions)
    assert list(made.candidates()) == ["optimised", "base"]
    assert made.frozen_hash_parts() is None


def test_the_warm_up_is_the_base_and_later_rounds_the_optimised_policy():
    policy = base()
    made = improver(policy)
    obs, keys = random_observation(policy, 3), [(1, row) for row in range(3)]
    warm = made.explorer(True).explore(obs, keys)
    np.testing.assert_array_equal(warm.chunk.actions, policy.act(obs, keys).actions)
    assert warm.latent is None
    later = made.explorer(False).explore(obs, keys)
    assert "gain" in later.chunk.info


# ------------------------------------------------------------------------------------------------------- refusals


def test_error_row_policies_that_cannot_learn():
    one, two = base(), base(seed=1)
    both = ComposedPolicy([one, two], [0.5, 0.5])
    with pytest.raises(UntrainableComposite, match="student"):
        learning_policy(both)
    assert learning_policy(both, one) is one
    with pytest.raises(MissingCapability, match="dsrl"):
        learning_policy(SteeredPolicy(one, PriorActor()))
    with pytest.raises(MissingCapability, match="TRAIN"):
        learning_policy(GaussianPolicy())
    with pytest.raises(ConfigError, match="memory"):
        learning_policy(tiny_head("seed_policy", "unet", "memory"))
    with pytest.raises(ConfigError, match="sentences"):
        learning_policy(tiny_head("flow", "unet", "language"))
    with pytest.raises(ConfigError, match="goals"):
        learning_policy(tiny_head("beso", "gpt", "goal"))
    with pytest.raises(ActionSpaceMismatch, match="horizon"):
        learning_policy(both, tiny_head("flow", "unet"))
    for changes, match in [
        ({"keep": 9}, "keep=9"),
        ({"training": {"num_samples": 2}}, "training.keep=3"),
        ({"critic_utd": 0.0}, "never learns"),
    ]:
        with pytest.raises(ConfigError, match=match):
            PARLConfig(**{**QUICK, **changes})
    with pytest.raises(ConfigError, match="n_obs_steps"):
        improver(critic={"n_obs_steps": 3})
    with pytest.raises(ConfigError, match="frozen"):
        improver(base().requires_grad_(False))


def test_a_student_learns_in_the_place_of_a_composition():
    both = ComposedPolicy([base(), base(seed=1)], [0.5, 0.5])
    start = improver()
    made = PARLImprover(both, start.critic, start.config, student=base(seed=2))
    data, live, teacher = transitions(both), weights(made.live), weights(both)
    made.step(DISTIL, drawn(data, BATCH, 0), rng(0))
    assert changed(made.live, live)
    assert not changed(both, teacher)
    assert made.frozen_hash_parts() is both
    assert made.explorer(True).explore({STATE: data[STATE][:2]}, [(0,), (1,)]).chunk.actions.shape == (2, 4, 2)


# --------------------------------------------------------------------------------------------------- it improves


def rounds(made: PARLImprover, play, data: dict, count: int, work: dict[str, int], seed: int = 50) -> None:
    """Rounds of collection (``play(policy, seed)``) and updates on everything so far."""
    for number in range(count):
        data = joined([data, play(made.explorer(False), seed + number)])
        for kind, steps in work.items():
            for step in range(steps):
                key = seed + 1000 * number + step
                made.step(kind, drawn(data, made.batch_size, key), rng(key))


class Acted:
    """An explorer as ``acts`` asks for it."""

    def __init__(self, explorer):
        self.explorer = explorer

    def act(self, obs, keys):
        return self.explorer.explore(obs, keys).chunk


LEARNING: dict[str, Any] = {
    "batch_size": 64,
    "num_samples": 8,
    "keep": 4,
    "steps": 4,
    "base_lr": 2e-3,
    "critic_lr": 2e-3,
    "ema": None,
    "refresh": 20,
    "max_jump": None,
    "critic": {"type": "rlpd", "hidden": (32, 32), "ensemble": 3, "hl_gauss": None, "gamma": 0.95},
}


def test_a_bandit_is_improved_at_test_time_and_by_distillation():
    made = improver(**LEARNING)

    def reward(policy: Any) -> float:
        return float(bandit(acts(policy), 300, 999)["reward"].mean())

    before = reward(made.average)
    data = bandit(acts(made.average), 300, 0)
    for step in range(80):
        made.step(OFFLINE, drawn(data, 64, step), rng(step))
    at_once = reward(made.candidates()["optimised"])
    rounds(made, lambda policy, seed: bandit(acts(Acted(policy)), 64, seed), data, 2, {DISTIL: 30, CRITIC: 20})
    after = {name: reward(policy) for name, policy in made.candidates().items()}
    assert at_once > before + 0.5  # the critic alone, nothing distilled yet
    assert after["base"] > before + 0.5  # the base alone, without the critic
    assert after["optimised"] > before + 0.5


@pytest.mark.slow
def test_a_point_learns_to_reach_the_origin_more_often():
    world = PointMass()
    hesitant = lambda obs, seed: (
        np.clip(-0.5 * obs[STATE][:, -1:] + 0.6 * np.random.default_rng(seed).standard_normal((len(obs[STATE]), 2, 2)),
                -1, 1).astype(np.float32)
    )  # fmt: skip
    demos, _ = world.run(hesitant, 150, 0)
    cloned = improver(tiny_point(), imitate="data", **{**LEARNING, "base_lr": 3e-3})
    for step in range(250):
        batch = drawn(demos, 64, step)
        cloned.step(IMITATE, {**batch, "success": np.ones(64, bool)}, rng(step))
    policy = cloned.live  # equal to its average, and not frozen
    made = improver(policy, **{**LEARNING, "eta": 0.1})
    for step in range(200):
        made.step(OFFLINE, drawn(demos, 64, step), rng(step))
    rounds(made, lambda who, seed: world.run(acts(Acted(who)), 30, seed)[0], demos, 4, {DISTIL: 40, CRITIC: 40})
    won = {name: world.run(acts(p), 300, 777)[1] for name, p in {"before": policy, **made.candidates()}.items()}
    assert won["optimised"] > won["before"] + 0.1
    assert won["base"] > won["before"] + 0.05


def tiny_point() -> Policy:
    from robopolicy.testing.tiny import tiny_policy

    return tiny_policy(state_dim=2, horizon=4, n_action_steps=2)


def test_the_published_settings_are_valid_and_whole():
    paper = yaml.safe_load(resource("policies/pa_rl/paper.yaml").read_text())["settings"]
    assert set(paper) == {"antmaze", "kitchen", "calvin", "antmaze_iql", "large_vla"}
    for name, setting in paper.items():
        config = build_config(PARLConfig, setting["pa_rl"], name)
        assert isinstance(config.critic, CriticConfig)
        assert config.eta == 3e-4
    assert build_config(PARLConfig, paper["antmaze"]["pa_rl"]).critic.value_range == (-100.0, 0.0)
    assert PARLConfig().candidates == (32, 10, 10)
