"""Both methods in whole runs: stopped anywhere and resumed they are the same runs; what they save loads and acts."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import torch

from robopolicy.api import load
from robopolicy.core.errors import CheckpointError
from robopolicy.evaluation.rollout import evaluate
from robopolicy.policies.io import save_policy
from robopolicy.testing.finetuning import ENV, curve, replay_digest, tiny_base, tiny_finetune_config
from robopolicy.testing.tiny import random_observation
from robopolicy.testing.training import final_tensors
from robopolicy.training.finetune import finetune
from robopolicy.training.tensors import digest

SMALL_CRITIC = {"hidden": [8], "ensemble": 2, "subset": None, "hl_gauss": None}
SMALL_PARL = {
    "num_samples": 4, "keep": 2, "steps": 2, "batch_size": 8, "refresh": 3, "utd_unit": "transition",
}  # fmt: skip
METHODS = {
    "dsrl-na": ("dsrl", {"variant": "na", "hidden": [8], "batch_size": 8, "utd": 0.5}),
    "dsrl-na-refresh": ("dsrl", {"variant": "na", "hidden": [8], "batch_size": 8, "utd": 0.5, "refresh": 3}),
    "dsrl-sac": ("dsrl", {"variant": "sac", "hidden": [8], "batch_size": 8, "utd": 0.5}),
    "pa_rl": ("pa_rl", {**SMALL_PARL, "critic": SMALL_CRITIC}),
    "pa_rl-data": ("pa_rl", {"imitate": "data", "batch_size": 8}),
}
OFFLINE = {"dsrl-na": "offline_updates", "pa_rl": "offline_steps"}


@pytest.fixture(autouse=True, scope="module")
def no_flushing():
    """Nothing here loses power, and thousands of fsyncs take a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: None)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_base(tmp_path_factory.mktemp("methods") / "base")


@pytest.fixture(scope="module")
def rollouts(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods") / "rollouts"
    env = {"name": ENV, "kwargs": {"max_steps": 40}}
    evaluate(load(base), env, episodes=4, workers=0, progress=False, record=folder)
    return folder


def config_for(base, method: str, **changes):
    kind, options = METHODS[method]
    few = {"rounds": 2, "collect.episodes": 2, "env.kwargs.max_steps": 40}
    return tiny_finetune_config(base, {"type": kind, kind: dict(options), **few, **changes})


def same(run, other) -> dict[str, bool]:
    ours, theirs = final_tensors(run), final_tensors(other)
    return {
        "tensors": ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours),
        "curves": curve(run) == curve(other),
        "replay": replay_digest(run) == replay_digest(other),
    }


@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_run_goes_on_as_if_it_had_not_been_and_deploys_what_acts(base, tmp_path, method):
    config = config_for(base, method)
    finetune(config, tmp_path / "whole", progress=False)
    updates = next(r["updates"] for r in curve(tmp_path / "whole") if r["kind"] == "train")
    for resume in (False, True):
        assert finetune(config, tmp_path / "run", resume, progress=False, stop_at=updates // 2).stopped
    finetune(config, tmp_path / "run", resume=True, progress=False)
    assert same(tmp_path / "whole", tmp_path / "run") == {"tensors": True, "curves": True, "replay": True}
    deployed = load(tmp_path / "run")
    obs = random_observation(load(base), 2)
    first, again = (deployed.act(obs, noise_keys=[(1,), (2,)]).actions for _ in range(2))
    assert np.array_equal(first, again)
    assert first.shape == (2, 8, 2)


@pytest.mark.parametrize("method", OFFLINE)
def test_the_offline_stage_is_resumed_too(base, rollouts, tmp_path, method):
    kind, _ = METHODS[method]
    changes = {"offline": {"paths": [str(rollouts)]}, f"{kind}.{OFFLINE[method]}": 6, "rounds": 1}
    config = config_for(base, method, **changes)
    finetune(config, tmp_path / "whole", progress=False)
    assert finetune(config, tmp_path / "run", progress=False, stop_at=4).env_steps == 0
    finetune(config, tmp_path / "run", resume=True, progress=False)
    assert same(tmp_path / "whole", tmp_path / "run") == {"tensors": True, "curves": True, "replay": True}
    assert sum(r["kind"] == "offline" for r in curve(tmp_path / "run")) == 3


def test_dsrl_leaves_the_base_as_it_is_and_names_it_in_what_it_deploys(base, tmp_path):
    before = digest(load(base).state_dict())
    finetune(config_for(base, "dsrl-na", rounds=1), tmp_path / "run", progress=False)
    deployed = load(tmp_path / "run")
    assert digest(deployed.parents[0].state_dict()) == before == digest(load(base).state_dict())


def test_another_base_in_the_old_one_s_place_is_refused(base, tmp_path):
    ours = shutil.copytree(base, tmp_path / "base")
    finetune(config_for(ours, "dsrl-sac", rounds=1), tmp_path / "run", progress=False)
    load(tmp_path / "run")
    other = load(ours)
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    shutil.rmtree(ours)
    save_policy(other, ours)
    with pytest.raises(CheckpointError, match="other weights than the file was made with"):
        load(tmp_path / "run")
