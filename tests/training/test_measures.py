"""Open-loop error, periodic rollouts, and which checkpoints they keep."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.core.chunk import ActionChunk
from robopolicy.policies.base import Policy
from robopolicy.policies.io import load_policy
from robopolicy.testing.datasets import make_tiny_dataset
from robopolicy.testing.tiny import random_batch, tiny_policy
from robopolicy.testing.training import final_tensors, tiny_train_config
from robopolicy.training.checkpoint import best_checkpoint, checkpoints, read_progress
from robopolicy.training.loop import train
from robopolicy.training.metrics import read_metrics
from robopolicy.training.validation import OpenLoop

ROWS = 10


class Perfect:
    """Acts what the batch says, plus a known error at one step of one channel."""

    def __init__(self, policy, windows):
        self.policy, self.windows = policy, windows
        self.observation_spec, self.action_spec = policy.observation_spec, policy.action_spec
        self.keys: list[list[tuple[int, int]]] = []

    def __getattr__(self, name):
        return getattr(self.policy, name)

    def act(self, obs, noise_keys):
        self.keys.append(list(noise_keys))
        actions = self.windows.data["action"][[k[1] for k in noise_keys]].copy()
        actions[:, 3, 1] += 0.5
        return ActionChunk.stamped(actions, self.action_spec)


class Fixed:
    def __init__(self, policy, rows=ROWS):
        self.data = random_batch(policy, rows)
        self.data["action_is_pad"][:] = False

    def __len__(self):
        return len(self.data["action"])

    def gather(self, indices):
        return {k: v[indices] for k, v in self.data.items()}


@pytest.fixture
def policy():
    return tiny_policy(horizon=8, n_action_steps=4)


def test_action_error_is_physical_and_per_step(policy):
    windows = Fixed(policy)
    scalars = OpenLoop(windows, count=100, seed=3)(Perfect(policy, windows))
    per_step = [scalars[f"action_error_step_{h:02d}"] for h in range(8)]
    assert per_step == pytest.approx([0, 0, 0, 0.25, 0, 0, 0, 0], abs=1e-6)
    assert scalars["action_error"] == pytest.approx(0.25 / 4)  # steps 1..4 are executed, step 3 is one of them
    assert (scalars["action_error_0"], scalars["action_error_1"]) == pytest.approx((0, 0.5 / 4))
    assert scalars["loss"] > 0


def test_padded_steps_do_not_count(policy):
    windows = Fixed(policy)
    windows.data["action_is_pad"][:, 3] = True
    windows.data["action_is_pad"][0, 3] = False
    scalars = OpenLoop(windows, count=100, seed=3)(Perfect(policy, windows))
    assert scalars["action_error_step_03"] == pytest.approx(0.25)
    windows.data["action_is_pad"][:, 3] = True
    assert OpenLoop(windows, count=100, seed=3)(Perfect(policy, windows))["action_error_step_03"] == 0


def test_noise_depends_on_the_window_only(policy):
    windows = Fixed(policy)
    spy = Perfect(policy, windows)
    OpenLoop(windows, count=4, seed=3)(spy)
    assert spy.keys == [[(3, 0), (3, 3), (3, 6), (3, 9)]]
    first, second = (OpenLoop(windows, count=100, seed=3)(policy) for _ in range(2))
    assert first == second
    assert OpenLoop(windows, count=100, seed=4)(policy) != first


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_tiny_dataset(tmp_path_factory.mktemp("data"), episodes=4, length=20, cameras=0)


SUCCESS = {2: 0.2, 4: 0.9, 6: 0.9, 8: 0.1, 10: 0.3}
REWARD = {2: 1.0, 4: 0.5, 6: 0.6, 8: 1.0, 10: 0.3}


def test_best_checkpoints_are_kept_by_success_then_reward(data, tmp_path):
    seen = []

    def evaluator(policy: Policy, step: int):
        seen.append((step, policy.training))
        return {"success_rate": SUCCESS[step], "mean_max_reward": REWARD[step]}

    config = tiny_train_config(
        data,
        {
            "steps": 10, "env": "point_reach", "eval.every": 2, "dataset.val_ratio": 0.3, "validation.every": 5,
            "checkpoint.every": 3, "checkpoint.keep_last": 1, "checkpoint.keep_best": 2,
        },
    )  # fmt: skip
    train(config, tmp_path / "run", evaluator=evaluator, progress=False)
    assert seen == [(s, False) for s in SUCCESS]  # the averaged policy, in evaluation mode
    kept = [int(p.name.split("_")[1]) for p in checkpoints(tmp_path / "run")]
    assert kept == [10, 6, 4]
    best = best_checkpoint(tmp_path / "run")
    assert best.name == "step_000006"
    assert read_progress(best).score == [0.9, 0.6]
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [(r["step"], r["success_rate"]) for r in records if r["kind"] == "eval"] == list(SUCCESS.items())
    assert [r["step"] for r in records if r["kind"] == "val"] == [5, 10]


def test_without_rollouts_the_open_loop_error_decides(data, tmp_path):
    config = tiny_train_config(
        data,
        {
            "steps": 8, "dataset.val_ratio": 0.3, "validation.every": 2, "checkpoint.every": 100,
            "checkpoint.keep_last": 1, "checkpoint.keep_best": 1, "ema.enabled": False,
        },
    )  # fmt: skip
    train(config, tmp_path / "run", progress=False)
    records = [r for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if r["kind"] == "val"]
    lowest = min(records, key=lambda r: r["action_error"])
    assert best_checkpoint(tmp_path / "run").name == f"step_{lowest['step']:06d}"
    assert read_progress(best_checkpoint(tmp_path / "run")).score == [-lowest["action_error"]]


def test_a_checkpoint_holds_the_average_and_the_live_weights(data, tmp_path):
    config = tiny_train_config(data, {"steps": 5})
    result = train(config, tmp_path / "run", progress=False)
    tensors = final_tensors(tmp_path / "run")
    policy = load_policy(result.checkpoint / "policy")
    assert not policy.training
    name = next(n for n, p in policy.named_parameters() if p.ndim > 1)
    average = policy.state_dict()[name].numpy()
    assert np.array_equal(average, tensors[f"policy/model/{name}"].numpy())
    assert not np.array_equal(average, tensors[f"training/model/{name}"].numpy())
    assert tensors[f"training/optimizer/exp_avg|{name}"].shape == average.shape
    assert float(tensors[f"training/optimizer/step|{name}"]) == 5
    progress = read_progress(result.checkpoint)
    assert (progress.step, progress.ema_calls, progress.skipped) == (5, 5, [])


def test_a_run_directory_holds_what_it_promises(data, tmp_path):
    train(tiny_train_config(data, {"steps": 2}), tmp_path / "run", progress=False)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "checkpoints", "config.yaml", "metrics.jsonl", "tensorboard",
    ]  # fmt: skip
    files = {p.relative_to(tmp_path / "run" / "checkpoints" / "step_000002").as_posix()
             for p in (tmp_path / "run" / "checkpoints").rglob("*") if p.is_file()}  # fmt: skip
    assert {"manifest.json", "policy/model.safetensors", "policy/config.yaml", "policy/specs.json", "policy/stats.json",
            "training/model.safetensors", "training/optimizer.safetensors", "training/state.json",
            "training/config.yaml"} == files  # fmt: skip
