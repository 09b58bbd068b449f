"""Policies on disk: bit-equal round trips; anything missing, altered or left over is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from robopolicy.core.errors import CheckpointError
from robopolicy.core.io import atomic_directory, write_manifest
from robopolicy.policies.base import Policy
from robopolicy.policies.io import load_policy, save_policy, write_policy_files
from robopolicy.testing.tiny import random_observation, tiny_policy

HYBRID = {"cameras": {"front": (32, 32)}, "backbone": "transformer", "sampler": "ddpm"}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_policy(tiny_policy(), tmp_path / "policy")


def chunk(policy: Policy) -> np.ndarray:
    return policy.act(random_observation(policy, 2), [(1,), (2,)]).actions


@pytest.mark.parametrize("changes", [{}, HYBRID, {"normalization": {"action": "gaussian"}, "clip": 3.0}])
def test_a_loaded_policy_acts_bit_equal(tmp_path: Path, changes):
    policy = tiny_policy(**changes)
    loaded = load_policy(save_policy(policy, tmp_path / "policy"))
    assert np.array_equal(chunk(policy), chunk(loaded))
    assert loaded.config == policy.config
    assert loaded.stats == policy.stats
    assert loaded.fps == policy.fps
    assert not loaded.training


def test_nothing_but_text_and_safetensors_is_written(saved: Path):
    assert sorted(p.name for p in saved.iterdir()) == [
        "config.yaml",
        "manifest.json",
        "model.safetensors",
        "specs.json",
        "stats.json",
    ]


def test_a_policy_inside_a_checkpoint_is_covered_by_its_manifest(tmp_path: Path):
    policy = tiny_policy()
    with atomic_directory(tmp_path / "step", "checkpoint") as aside:
        write_policy_files(policy, aside / "policy")
    assert np.array_equal(chunk(load_policy(tmp_path / "step")), chunk(policy))
    inside = tmp_path / "step" / "policy"
    assert np.array_equal(chunk(load_policy(inside)), chunk(policy))
    flip(inside / "stats.json")
    with pytest.raises(CheckpointError, match=r"stats\.json"):
        load_policy(inside)


def test_saving_over_a_policy_replaces_it(saved: Path):
    other = tiny_policy(seed=5)
    save_policy(other, saved)
    assert np.array_equal(chunk(load_policy(saved)), chunk(other))


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["config.yaml", "model.safetensors", "specs.json", "stats.json", "manifest.json"])
def test_a_flipped_byte_in_any_file_is_found(saved: Path, name):
    flip(saved / name, at=(saved / name).stat().st_size // 2)
    with pytest.raises(CheckpointError, match=name):
        load_policy(saved)


@pytest.mark.parametrize("name", ["config.yaml", "model.safetensors", "specs.json", "stats.json"])
def test_a_missing_or_truncated_file_is_named(saved: Path, name):
    data = (saved / name).read_bytes()
    (saved / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=name):
        load_policy(saved)
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_policy(saved)


def test_an_unfinished_directory_is_no_policy(saved: Path, tmp_path: Path):
    (saved / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="never finished"):
        load_policy(saved)
    with pytest.raises(CheckpointError, match="no such directory"):
        load_policy(tmp_path / "nowhere")


def rewrite(saved: Path, change) -> None:
    state = load_file(saved / "model.safetensors")
    change(state)
    save_file(state, saved / "model.safetensors")
    write_manifest(saved, "policy")


NAME = "net.project.bias"
CHANGES = [
    (lambda s: s.pop(NAME), f"missing {NAME}"),
    (lambda s: s.update({"net.extra": torch.zeros(1)}), "unexpected net.extra"),
    (lambda s: s.update({NAME: torch.zeros(7)}), rf"{NAME} is \(7,\), expected \(2,\)"),
]


@pytest.mark.parametrize(("change", "words"), CHANGES)
def test_tensors_must_match_by_name_and_shape_even_with_a_right_manifest(saved: Path, change, words):
    rewrite(saved, change)
    with pytest.raises(CheckpointError, match=words):
        load_policy(saved)


def test_many_wrong_tensors_are_counted_not_listed(saved: Path):
    rewrite(saved, lambda s: [s.pop(k) for k in list(s)[:20]])
    with pytest.raises(CheckpointError, match="and 15 more"):
        load_policy(saved)


EDITS = [
    ("config.yaml", lambda d: d.update(horizn=4), "config.yaml: unknown key 'horizn'; did you mean 'horizon'"),
    ("config.yaml", lambda d: d.update(type="difusion"), "unknown policy type 'difusion'"),
    ("config.yaml", lambda d: d.update(num_inference_steps=0), "num_inference_steps must be in"),
    ("specs.json", lambda d: d.pop("action"), "do not describe a policy"),
    ("stats.json", lambda d: d.pop("action"), "no statistics for 'action'"),
]


@pytest.mark.parametrize(("name", "edit", "words"), EDITS)
def test_edited_text_files_are_refused_with_their_name(saved: Path, name, edit, words):
    path = saved / name
    data = yaml.safe_load(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))
    write_manifest(saved, "policy")
    with pytest.raises(CheckpointError, match=words):
        load_policy(saved)


def test_pretrained_encoders_are_not_downloaded_again(tmp_path: Path):
    image = {
        "backbone": "torchvision:squeezenet1_1",
        "weights": "default",
        "norm": "frozen_batch",
        "crop": None,
        "feature_dim": 4,
    }
    config = {"encoder": {"image": image}, "unet": {"down_dims": (8, 8), "kernel_size": 3, "step_embed_dim": 8}}
    from robopolicy.core.specs import ACTION, STATE, ActionSpace
    from robopolicy.policies.registry import make_policy
    from robopolicy.testing.tiny import tiny_config, tiny_spec, unit_stats

    spec, stats = tiny_spec(3, {"front": (48, 48)}), {STATE: unit_stats(3), ACTION: unit_stats(2)}
    policy = make_policy(tiny_config(**config), spec, ActionSpace(2), 10.0, stats, load_weights=False)
    loaded = load_policy(save_policy(policy, tmp_path / "policy"))
    assert loaded.config.encoder.image.weights == "default"
