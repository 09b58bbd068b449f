"""Fine-tuning runs: exact resumption, budgets, rounds, seeds, what is logged, saved and refused."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from robopolicy.api import find_policy, load
from robopolicy.core.errors import CheckpointError, ConfigError, EnvUnavailable, NonFiniteLoss, PolicyInterfaceError
from robopolicy.core.intervals import wilson
from robopolicy.nesting_env import nesting_env
from robopolicy.testing.finetuning import ENV, curve, replay_digest, tiny_base, tiny_finetune_config
from robopolicy.testing.training import final_tensors
from robopolicy.training.checkpoint import latest_checkpoint
from robopolicy.training.finetune import finetune
from robopolicy.training.finetune_config import COLLECTION_SEEDS, FinetuneConfig
from robopolicy.training.finetune_setup import planned_episodes
from robopolicy.training.finetune_state import FinetuneProgress, read_base
from robopolicy.training.tensors import digest


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_base(tmp_path_factory.mktemp("finetune") / "base")


@pytest.fixture(scope="module")
def straight(base, tmp_path_factory):
    """A run that nothing interrupted: three rounds, 2 + 3 + 3 episodes, six updates each."""
    run = tmp_path_factory.mktemp("finetune") / "straight"
    finetune(tiny_finetune_config(base), run, progress=False)
    return run


@pytest.fixture(autouse=True, scope="module")
def no_flushing():
    """Nothing here loses power, and thousands of fsyncs take a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: None)
        yield


def same(run, other) -> bool:
    ours, theirs = final_tensors(run), final_tensors(other)
    return (
        ours.keys() == theirs.keys()
        and all(torch.equal(ours[k], theirs[k]) for k in ours)
        and curve(run) == curve(other)
        and replay_digest(run) == replay_digest(other)
    )


def replay_lines(run) -> list[dict]:
    return [json.loads(line) for line in (run / "replay" / "episodes.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------------------------------------------- resumption


@pytest.mark.parametrize("updates", [1, 3, 6, 9])
def test_stopped_among_updates_and_resumed_is_the_same_run(base, straight, tmp_path, updates):
    config = tiny_finetune_config(base)
    first = finetune(config, tmp_path / "run", progress=False, stop_at=updates)
    assert first.stopped == "stop_at"
    second = finetune(config, tmp_path / "run", resume=True, progress=False)
    assert (second.rounds, second.stopped) == (3, None)
    assert same(straight, tmp_path / "run")


@pytest.mark.parametrize("slots", [1, 2])
def test_an_episode_lost_in_mid_round_is_collected_again_and_nothing_else_changes(base, tmp_path, slots):
    config = tiny_finetune_config(base, {"collect.slots": slots, "checkpoint.every_rounds": 9})
    finetune(config, tmp_path / "whole", progress=False)
    finetune(config, tmp_path / "run", progress=False)
    shutil.rmtree(latest_checkpoint(tmp_path / "run"))  # as if killed before the end was saved...
    lines = (tmp_path / "run" / "replay" / "episodes.jsonl").read_text().splitlines()
    (tmp_path / "run" / "replay" / "episodes.jsonl").write_text("\n".join(lines[:6]) + "\n")  # ... in the third round
    finetune(config, tmp_path / "run", resume=True, progress=False)
    assert same(tmp_path / "whole", tmp_path / "run")


def test_a_round_is_a_function_of_weights_and_seeds_for_any_number_of_workers(base, straight, tmp_path):
    finetune(tiny_finetune_config(base, {"simulate.workers": 2}), tmp_path / "run", progress=False)
    assert same(straight, tmp_path / "run")


def test_another_seed_is_another_run(base, straight, tmp_path):
    finetune(tiny_finetune_config(base, {"seed": 7, "rounds": 1}), tmp_path / "run", progress=False)
    ours, theirs = {e["seed"] for e in replay_lines(tmp_path / "run")}, {e["seed"] for e in replay_lines(straight)}
    assert not ours & theirs
    assert min(ours | theirs) >= COLLECTION_SEEDS


def test_offline_work_is_resumed_among_updates(base, tmp_path):
    data = _rollouts(base, tmp_path)
    changes = {"method.offline_steps": 5, "rounds": 1, "offline": {"paths": [str(data)]}}
    config = tiny_finetune_config(base, changes)
    finetune(config, tmp_path / "whole", progress=False)
    first = finetune(config, tmp_path / "run", progress=False, stop_at=3)
    assert (first.rounds, first.env_steps) == (0, 0)
    finetune(config, tmp_path / "run", resume=True, progress=False)
    assert same(tmp_path / "whole", tmp_path / "run")
    assert [(r["step"], sorted(r)) for r in curve(tmp_path / "run") if r["kind"] == "offline"] == [
        (step, ["critic_loss", "env_steps", "kind", "step"]) for step in (2, 4, 5)
    ]


def test_more_rounds_go_on_where_the_run_ended(base, straight, tmp_path):
    finetune(tiny_finetune_config(base, {"rounds": 2}), tmp_path / "run", progress=False)
    finetune(tiny_finetune_config(base, {"rounds": 3}), tmp_path / "run", resume=True, progress=False)
    assert same(straight, tmp_path / "run")


def test_resume_after_the_end_changes_nothing(base, straight, tmp_path):
    shutil.copytree(straight, tmp_path / "run")
    result = finetune(tiny_finetune_config(base), tmp_path / "run", resume=True, progress=False)
    assert (result.rounds, result.checkpoint) == (3, latest_checkpoint(tmp_path / "run"))
    assert same(straight, tmp_path / "run")


# -------------------------------------------------------------------------------------------------- rounds, budgets


def test_rounds_have_their_episodes_and_the_base_collects_the_first(straight):
    lines = replay_lines(straight)
    assert sorted((e["round"], e["index"]) for e in lines) == [
        *((0, i) for i in (0, 1)), *((1, i) for i in (2, 3, 4)), *((2, i) for i in (5, 6, 7)),
    ]  # fmt: skip
    first = min(e["seed"] for e in lines)
    assert {e["index"]: e["seed"] for e in lines} == {i: first + i for i in range(8)}
    assert [r["warmup"] for r in curve(straight) if r["kind"] == "collect"] == [1.0, 0.0, 0.0]


def test_the_budget_of_steps_is_never_exceeded_and_used_as_far_as_episodes_surely_fit(base, tmp_path):
    changes = {"max_env_steps": 50, "rounds": None, "env.kwargs.max_steps": 12}
    result = finetune(tiny_finetune_config(base, changes), tmp_path / "run", progress=False)
    assert 50 - 12 < result.env_steps <= 50
    assert result.env_steps == sum(e["env_steps"] for e in replay_lines(tmp_path / "run"))


@pytest.mark.parametrize(
    ("env_steps", "rounds", "planned"), [(0, 0, 2), (0, 1, 3), (75, 1, 2), (89, 1, 0), (0, 9, 0), (88, 1, 1)]
)
def test_planned_episodes(base, env_steps, rounds, planned):
    config = tiny_finetune_config(base, {"max_env_steps": 100, "rounds": 9})
    assert planned_episodes(config, FinetuneProgress(env_steps=env_steps, round=rounds), 12) == planned


def test_no_warmup_round_without_warmup_episodes(base, tmp_path):
    config = tiny_finetune_config(base, {"collect.warmup_episodes": 0, "rounds": 1})
    finetune(config, tmp_path / "run", progress=False)
    assert [r["warmup"] for r in curve(tmp_path / "run") if r["kind"] == "collect"] == [0.0]
    assert len(replay_lines(tmp_path / "run")) == 3


# --------------------------------------------------------------------------------------------------------- safety


def test_mix_base_gives_a_share_of_episodes_to_the_base(base, tmp_path, monkeypatch):
    from robopolicy.testing.improvers import ImitateAll

    asked = []
    own = ImitateAll.explorer
    monkeypatch.setattr(ImitateAll, "explorer", lambda self, warm: asked.append(warm) or own(self, warm))
    changes = {"safety.mix_base": 0.5, "collect.episodes": 8, "rounds": 1, "collect.warmup_episodes": 0}
    finetune(tiny_finetune_config(base, changes), tmp_path / "run", progress=False)
    assert asked == [False, True]
    assert len(replay_lines(tmp_path / "run")) == 8
    asked.clear()
    finetune(tiny_finetune_config(base, {**changes, "safety.mix_base": 0.0}), tmp_path / "none", progress=False)
    assert asked == [False]


def test_failures_in_a_row_stop_the_run_saved_and_resumable(base, tmp_path):
    never = {"env.kwargs.max_steps": 1, "safety.max_failures": 4, "collect.slots": 1}
    result = finetune(tiny_finetune_config(base, never), tmp_path / "run", progress=False)
    assert (result.stopped, result.rounds) == ("safety", 1)
    assert len(replay_lines(tmp_path / "run")) == 4
    assert result.checkpoint.is_dir()
    again = finetune(tiny_finetune_config(base, never), tmp_path / "run", resume=True, progress=False)
    assert (again.stopped, len(replay_lines(tmp_path / "run"))) == ("safety", 8)


def test_the_bound_grows_from_its_start_to_the_methods_own(base, tmp_path, monkeypatch):
    from robopolicy.testing.improvers import ImitateAll

    seen = []
    monkeypatch.setattr(ImitateAll, "set_bound", lambda self, bound: seen.append(round(bound, 6)))
    changes = {"safety.bound_start": 0.5, "safety.bound_rounds": 2, "rounds": 4}
    finetune(tiny_finetune_config(base, changes), tmp_path / "run", progress=False)
    assert seen == [0.5, 1.25, 2.0, 2.0]


# ----------------------------------------------------------------------------------------------- what is told, saved


def test_curves_are_over_environment_steps_in_jsonl_and_tensorboard(straight):
    records = curve(straight)
    assert [(r["kind"], r["round"]) for r in records] == [(k, r) for r in (0, 1, 2) for k in ("collect", "train")]
    lines = replay_lines(straight)
    for number in (0, 1, 2):
        mine = [e for e in lines if e["round"] == number]
        so_far = sum(e["env_steps"] for e in lines if e["round"] <= number)
        record = next(r for r in records if (r["kind"], r["round"]) == ("collect", number))
        rate = wilson(sum(e["success"] for e in mine), len(mine))
        assert (record["step"], record["env_steps"], record["episodes"]) == (so_far, so_far, len(mine))
        assert (record["success_rate"], record["success_low"]) == (rate.rate, rate.low)
        assert record["transitions"] == sum(e["transitions"] for e in mine)
    events = EventAccumulator(str(straight / "tensorboard")).Reload()
    steps = [r["step"] for r in records if r["kind"] == "train"]
    assert [e.step for e in events.Scalars("train/policy_loss")] == steps
    told = [r["policy_loss"] for r in records if r["kind"] == "train"]
    assert [e.value for e in events.Scalars("train/policy_loss")] == pytest.approx(told)


def test_evaluation_is_due_at_the_start_every_so_many_rounds_and_at_the_end(base, tmp_path):
    asked = []

    def evaluator(policies, label):
        asked.append((label, sorted(policies)))
        rate = {"start": 0.1, "round_00002": 0.9, "round_00003": 0.5}[label]
        return {name: {"success_rate": rate, "episodes": 4.0} for name in policies}

    config = tiny_finetune_config(base, {"eval.every_rounds": 2, "checkpoint.keep_last": 1})
    result = finetune(config, tmp_path / "run", evaluator=evaluator, progress=False)
    assert asked == [(label, ["base", "tuned"]) for label in ("start", "round_00002", "round_00003")]
    records = [r for r in curve(tmp_path / "run") if r["kind"] == "eval"]
    assert [(r["step"], r["success_rate"], r["base.success_rate"]) for r in records] == [
        (0, 0.1, 0.1), (records[1]["step"], 0.9, 0.9), (result.env_steps, 0.5, 0.5),
    ]  # fmt: skip
    # The best evaluated one is deployed and kept beside the newest.
    best = yaml.safe_load((tmp_path / "run" / "policy.yaml").read_text())["policy"]
    kept = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == [best.split("/")[1], result.checkpoint.name]
    assert best.split("/")[1] != result.checkpoint.name


def test_a_run_loads_and_evaluates_as_the_policy_it_deploys(base, straight):
    assert find_policy(straight) == straight / "policy.yaml"
    assert find_policy(latest_checkpoint(straight)) == latest_checkpoint(straight) / "deploy" / "policy.yaml"
    loaded, newest = load(straight), final_tensors(straight)
    tuned = loaded.parents[0].state_dict()
    assert all(torch.equal(v, newest[f"training/model/policy.{k}"]) for k, v in tuned.items())
    assert nesting_env(straight / "policy.yaml") == {"name": ENV, "kwargs": {"max_steps": 12}}


def test_the_run_directory_tells_all(base, straight):
    assert {p.name for p in straight.iterdir()} == {
        "config.yaml", "base", "replay", "checkpoints", "metrics.jsonl", "tensorboard", "policy.yaml",
    }  # fmt: skip
    assert read_base(straight) == {"path": str(base), "sha256": digest(load(base).state_dict())}
    assert yaml.safe_load((straight / "config.yaml").read_text())["method"]["steps"] == 3


def test_a_moved_tree_still_finds_its_base(tmp_path):
    finetune(
        tiny_finetune_config(tiny_base(tmp_path / "a" / "base"), {"rounds": 1}), tmp_path / "a" / "run", progress=False
    )
    (tmp_path / "a").rename(tmp_path / "b")
    assert load(tmp_path / "b" / "run").parents[0].action_spec.horizon == 8
    config = tiny_finetune_config(tmp_path / "b" / "base", {"rounds": 2})
    assert finetune(config, tmp_path / "b" / "run", resume=True, progress=False).rounds == 2


# -------------------------------------------------------------------------------------------------------- refusals


def _rollouts(base, tmp_path):
    from robopolicy.evaluation.rollout import evaluate

    env = {"name": ENV, "kwargs": {"max_steps": 12}}
    evaluate(load(base), env, episodes=3, workers=0, progress=False, record=tmp_path / "rollouts")
    return tmp_path / "rollouts"


def test_resume_refuses_another_base_configuration_replay_or_data(base, straight, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    other = tiny_base(tmp_path / "other", seed=1)
    more = {"rounds": 4}
    with pytest.raises(CheckpointError, match=r"another policy than the run began from.*--base PATH"):
        finetune(tiny_finetune_config(other, more), run, resume=True, progress=False)
    with pytest.raises(ConfigError, match="other values of: seed"):
        finetune(tiny_finetune_config(base, {"seed": 1}), run, resume=True, progress=False)
    with pytest.raises(ConfigError, match="other values of: method"):
        finetune(tiny_finetune_config(base, {"method.lr": 0.1}), run, resume=True, progress=False)
    with pytest.raises(ConfigError, match=r"exists already.*robopolicy finetune --resume"):
        finetune(tiny_finetune_config(base), run, progress=False)
    shutil.rmtree(run / "replay")
    with pytest.raises(CheckpointError, match="0 transitions of 3 rounds, but the checkpoint learned from"):
        finetune(tiny_finetune_config(base, more), run, resume=True, progress=False)


def test_resume_refuses_changed_offline_data(base, tmp_path):
    data = _rollouts(base, tmp_path)
    config = tiny_finetune_config(base, {"rounds": 1, "offline": {"paths": [str(data)]}})
    finetune(config, tmp_path / "run", progress=False)
    shutil.rmtree(data)
    from robopolicy.evaluation.rollout import evaluate

    env = {"name": ENV, "kwargs": {"max_steps": 12}}
    evaluate(load(base), env, episodes=3, base_seed=5, workers=0, progress=False, record=data)
    more = dataclasses.replace(config, rounds=2)
    with pytest.raises(CheckpointError, match="the offline data changed since the run began"):
        finetune(more, tmp_path / "run", resume=True, progress=False)


def test_offline_and_online_rewards_of_two_kinds_are_refused_before_there_is_a_run(base, tmp_path):
    changes = {"rounds": 1, "rewards.rewards": "recorded", "offline": {"paths": [str(_rollouts(base, tmp_path))]}}
    with pytest.raises(ConfigError, match="rewards are 'success' there and 'recorded' online"):
        finetune(tiny_finetune_config(base, changes), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_frozen_base_that_changes_stops_the_run(base, tmp_path):
    with pytest.raises(PolicyInterfaceError, match="must stay as they are have changed"):
        finetune(tiny_finetune_config(base, {"method.break_base": True}), tmp_path / "run", progress=False)


def test_a_loss_that_is_no_number_stops_the_run(base, tmp_path):
    with pytest.raises(NonFiniteLoss, match="policy_loss not finite in policy update 0 of round 0"):
        finetune(tiny_finetune_config(base, {"method.break_loss": True}), tmp_path / "run", progress=False)


def test_a_round_whose_every_episode_is_lost_stops_the_run(base, tmp_path):
    config = tiny_finetune_config(base)
    seeds = list(range(config.collection_seed, config.collection_seed + 9))
    broken = tiny_finetune_config(base, {"env.kwargs.faults": {"raise": seeds}})
    with pytest.raises(EnvUnavailable, match="all 2 episodes were lost to errors of environment"):
        finetune(broken, tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "dsrrl"}, "unknown fine-tuning method 'dsrrl'.*did you mean 'dsrl'"),
        ({"method": {"lrr": 1}}, "unknown key 'lrr'.*did you mean 'lr'"),
        ({"rounds": None}, "give --max-env-steps N or --rounds N"),
        ({"base": ""}, "--base PATH"),
        ({"safety.mix_base": 2}, "safety.mix_base"),
        ({"roundss": 2}, "unknown key 'roundss'.*did you mean 'rounds'"),
        ({"imitate_all": {"lr": 0.1}, "method": {"lr": 0.2}}, "not in both"),
    ],
)
def test_a_wrong_configuration_is_refused_in_one_line(base, changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        tiny_finetune_config(base, changes)
    assert "\n" not in str(error.value)


def test_sections_of_other_methods_are_checked_and_left_out(base):
    config = tiny_finetune_config(base, {"dsrl": {"bound": 1.0}, "imitate_all": {"lr": 0.5}})
    assert config.method.lr == 0.5
    with pytest.raises(ConfigError, match="dsrl: unknown key 'boundd'"):
        tiny_finetune_config(base, {"dsrl": {"boundd": 1.0}})


def test_an_environment_that_does_not_fit_is_refused_before_there_is_a_run(base, tmp_path):
    from robopolicy.evaluation.checks import check_fits

    config: FinetuneConfig = tiny_finetune_config(base, {"env": {"name": "pusht"}})
    with pytest.raises(Exception, match="pusht"):
        finetune(config, tmp_path / "run", check=check_fits, progress=False)
    assert not (tmp_path / "run").exists()
