"""DSRL behind ``core.improver``: explorers, layout, work, all kinds of bases and observations, resumption, files."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import robopolicy
from robopolicy.core.configs import build_config
from robopolicy.core.errors import (
    CheckpointError,
    ConfigError,
    MissingCapability,
    MissingRewards,
    NonDeterministicDecoder,
    PolicyInterfaceError,
)
from robopolicy.core.improver import IMPROVERS, Beginning, Work
from robopolicy.core.specs import ACTION, DEPTH, TASK, FeatureKind, ObservationSpec
from robopolicy.evaluation.checks import calibrated
from robopolicy.evaluation.provenance import describe_nesting, policy_hash
from robopolicy.policies.io import save_policy
from robopolicy.resources import resource
from robopolicy.rl import improvers
from robopolicy.rl.dsrl import UPDATE, DSRLImprover, build
from robopolicy.rl.dsrl_config import DSRLConfig
from robopolicy.rl.noise_actor import load_noise_actor
from robopolicy.testing.heads import tiny_head
from robopolicy.testing.tiny import TINY_ENCODER, random_observation, tiny_camera, tiny_policy, tiny_spec, unit_stats
from robopolicy.wrappers.compose import ComposedPolicy

SMALL = {"hidden": (16, 16), "batch_size": 12, "distill": 1.0, "encoder": TINY_ENCODER}
KEYS = [(3, row, 2) for row in range(3)]
FRONT = DEPTH + "front"


def statistics(base) -> dict:
    found = {f.key: unit_stats(f.shape[0]) for f in base.observation_spec.of_kind(FeatureKind.STATE)}
    return {**found, ACTION: unit_stats(base.action_spec.dim)}


def improver(base=None, offline: bool = False, **options) -> DSRLImprover:
    base = base or tiny_policy()
    torch.manual_seed(0)
    beginning = Beginning(base, base.observation_spec, statistics(base), offline=offline)
    return build(DSRLConfig(**{**SMALL, **options}), beginning)


def batch(made: DSRLImprover, number: int = 0, rows: int = 12) -> dict[str, np.ndarray]:
    rng, k, dim = np.random.default_rng(number), made.layout.k, made.layout.action_dim
    here, ahead = (random_observation(made.base, rows, 2 * number + i) for i in range(2))
    out = {key: here[key] for key in made._stored} | {"next." + key: ahead[key] for key in made._stored}
    out |= {ACTION: rng.uniform(-1, 1, (rows, k, dim)).astype(np.float32), "reward": -np.ones(rows, np.float32)}
    out["discount"] = np.where(np.arange(rows) % 4, 0.9, 0.0).astype(np.float32)
    if made.layout.latent_shape is not None:
        out["latent"] = rng.standard_normal((rows, *made.layout.latent_shape)).astype(np.float32)
    return out


def updates(made: DSRLImprover, first: int, last: int) -> dict[str, float]:
    told = {}
    for number in range(first, last):
        told = made.step(UPDATE, batch(made, number), torch.Generator().manual_seed(number))
    return told


# ---------------------------------------------------------------------------------------------------------- exploring


def test_warming_up_is_the_base_itself_and_for_sac_inside_the_box():
    base = tiny_policy()
    obs = random_observation(base, 3)
    plain = base.act(obs, KEYS).actions
    aliased = improver(base).explorer(True).explore(obs, KEYS)
    np.testing.assert_array_equal(aliased.chunk.actions, plain)
    found = improver(base, variant="sac", bound=0.5).explorer(True).explore(obs, KEYS)
    np.testing.assert_array_equal(found.latent, aliased.latent.clip(-0.5, 0.5))
    assert not np.array_equal(found.chunk.actions, plain)


def test_exploring_samples_and_the_candidate_takes_the_mode():
    made = improver()
    obs = random_observation(made.base, 3)
    (name, steered), *others = made.candidates().items()
    assert (name, others) == ("steered", [])
    np.testing.assert_array_equal(steered.act(obs, KEYS).actions, steered.act(obs, [(9, 9)] * 3).actions)
    explorer = made.explorer(False)
    one, two = explorer.explore(obs, KEYS), explorer.explore(obs, [(4, r, 2) for r in range(3)])
    assert not np.array_equal(one.latent, two.latent)
    assert one.latent.shape == (3, 16 * 2)
    made.set_bound(0.25)  # a curriculum reaches every policy that acts with this actor
    assert float(np.abs(explorer.explore(obs, KEYS).latent).max()) < 0.25
    assert (steered.bound, made.bound) == (0.25, 1.5)
    with pytest.raises(ConfigError, match=r"beyond dsrl\.bound=1\.5"):
        made.set_bound(2.0)


def test_layouts_store_what_an_update_asks_for():
    aliased, plain = improver(), improver(variant="sac", latent_map={"kind": "basis", "rank": 3})
    assert (aliased.layout.latent_shape, plain.layout.latent_shape) == (None, (6,))
    assert (aliased.layout.k, aliased.layout.action_dim, aliased.layout.n_obs_steps) == (8, 2, 2)
    assert aliased.layout.gamma == 0.99


def test_work_counts_decisions_and_the_first_round_has_its_burst():
    made = improver(utd=2.5, first_updates=7, offline_updates=4, offline=True)
    assert list(made.offline_work()) == [Work(UPDATE, 4, 1.0)]
    assert list(made.online_work(3, 24)) == [Work(UPDATE, 7 + 7, 0.5)]
    assert list(made.online_work(3, 24)) == [Work(UPDATE, 8, 0.5)]
    assert list(improver().online_work(2, 16)) == [Work(UPDATE, 10, 0.0)]
    with pytest.raises(ConfigError, match="needs offline data"):
        improver(offline_updates=4).offline_work()


# ---------------------------------------------------------------------------------------------------- all kinds of base


@pytest.mark.parametrize("variant", ["na", "sac"])
@pytest.mark.parametrize(
    ("head", "backbone", "kind", "options"),
    [
        ("diffusion", "unet", "hybrid", {}),
        ("flow", "unet", "image", {"features": "base"}),
        ("beso", "gpt", "state", {"latent_map": {"kind": "additive"}}),
        ("ebt", "unet", "state", {"refresh": 4}),
        ("diffuser_actor_3d", "trajectory", "depth", {}),
    ],
)
@pytest.mark.filterwarnings("ignore::robopolicy.wrappers.steer_probe.PriorMismatchWarning")
def test_both_variants_learn_on_every_head_and_leave_it_as_it_was(variant, head, backbone, kind, options):
    if variant == "sac":
        options = {k: v for k, v in options.items() if k != "refresh"}
    base = tiny_head(head, backbone, kind)
    if base.tape_len:
        base.set_sampler(sampler="ddim")
    made = improver(base, variant=variant, **options)
    before, weights = policy_hash(base), {k: v.clone() for k, v in made.modules().state_dict().items()}
    told = updates(made, 0, 3)
    assert all(np.isfinite(v) for v in told.values())
    assert policy_hash(made.frozen_hash_parts()) == before
    assert all(p.grad is None for p in base.parameters())
    moved = {k for k, v in made.modules().state_dict().items() if not torch.equal(v, weights[k])}
    assert any(k.startswith("learner.actor") for k in moved)
    assert any(k.startswith("learner.critic") for k in moved)
    assert any("noise_critic" in k for k in moved) == (variant == "na")
    assert any(k.startswith("encoder") for k in moved) == (kind in ("hybrid", "depth"))
    assert any(k.startswith("slow_encoder") for k in moved) == (kind in ("hybrid", "depth"))
    chunk = made.candidates()["steered"].act(random_observation(base, 2))
    assert np.isfinite(chunk.actions).all()


def test_an_actor_that_sees_depth_takes_the_cameras_of_the_place_and_gives_them_back():
    base = tiny_policy(observation_spec=tiny_spec(3, None, {"front": (8, 8)}))
    made, other = improver(base, observation_keys=(FRONT,)), tiny_camera((8, 8), (0.5, 0.0, 2.0))
    steered, rig = made.candidates()["steered"], made.actor.encoder.depth.rig
    place = ObservationSpec(
        tuple(replace(f, camera=other) if f.key == FRONT else f for f in base.observation_spec.features)
    )
    obs = {FRONT: torch.ones(1, 1, 8, 8)}
    before = rig.xyz(FRONT, obs)
    with calibrated(steered, place):
        torch.testing.assert_close(rig.xyz(FRONT, obs)[:, 2], torch.ones(1, 8, 8))
        assert steered.observation_spec[FRONT].camera == other
    assert torch.equal(rig.xyz(FRONT, obs), before)


def test_a_composition_is_improved():
    two = ComposedPolicy([tiny_policy(), tiny_policy(seed=1)], (0.3, 0.7))
    before = policy_hash(two)
    made = improver(two)
    updates(made, 0, 2)
    assert policy_hash(two) == before
    assert made.candidates()["steered"].policy is two


def test_what_cannot_be_asked_again_is_left_to_sac():
    memory = tiny_head("seed_policy", "unet", "memory", sampler="ddim")
    with pytest.raises(MissingCapability, match="use variant: sac"):
        improver(memory)
    updates(improver(memory, variant="sac"), 0, 1)
    goals = tiny_head("beso", "gpt", "goal")
    if goals.tape_len:
        goals.set_sampler(sampler="ddim")
    with pytest.raises(MissingCapability, match="goals"):
        improver(goals)
    sentence = tiny_head("diffusion", "unet", "language")
    with pytest.raises(ConfigError, match=r"dsrl\.task"):
        improver(sentence)
    told = improver(sentence, task="lift the cube")
    assert TASK not in told.layout.observation_spec
    updates(told, 0, 1)


# ------------------------------------------------------------------------------------------------------------- refusals


def test_d12_missing_rewards_latents_and_offline_data_are_told_apart():
    with pytest.raises(NonDeterministicDecoder, match="deterministic sampler"):
        improver(tiny_policy(sampler="ddpm"))
    made = improver()
    whole = batch(made)
    for key in ("reward", "discount"):
        with pytest.raises(MissingRewards, match=key):
            made.step(UPDATE, {k: v for k, v in whole.items() if k != key}, torch.Generator())
    plain = improver(variant="sac")
    with pytest.raises(ConfigError, match="no latents"):
        plain.step(UPDATE, {k: v for k, v in batch(plain).items() if k != "latent"}, torch.Generator())
    with pytest.raises(ConfigError, match=r"use dsrl\.variant na"):
        improver(variant="sac", offline=True)
    with pytest.raises(ConfigError, match="offline_updates to 0"):
        DSRLConfig(variant="sac", offline_updates=3)
    with pytest.raises(ConfigError, match="set features: own"):
        DSRLConfig(features="base", n_obs_steps=1)
    with pytest.raises(ConfigError, match="kind 'dsrl'"):
        made.step("other", whole, torch.Generator())


# ---------------------------------------------------------------------------------------------------------------- state


@pytest.mark.parametrize("options", [{}, {"refresh": 3}, {"variant": "sac"}], ids=["na", "blocks", "sac"])
def test_a_run_continues_bitwise_from_its_state(options):
    whole, first = improver(**options), improver(**options)
    whole.online_work(4, 32)
    updates(whole, 0, 5)
    whole.online_work(4, 32)  # a round's end is where runs are continued
    whole.extra_state()
    updates(whole, 5, 9)
    first.online_work(4, 32)
    updates(first, 0, 5)
    second = improver(**options)
    state = json.loads(json.dumps(first.extra_state()))
    second.modules().load_state_dict(first.modules().state_dict())
    for name, optimizer in first.optimizers().items():
        second.optimizers()[name].load_state_dict(optimizer.state_dict())
    second.load_extra_state(state)
    second.online_work(4, 32)
    updates(second, 5, 9)
    ours, theirs = second.modules().state_dict(), whole.modules().state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert second.extra_state() == whole.extra_state()
    with pytest.raises(CheckpointError, match="counters"):
        second.load_extra_state({"steps": 3})


def test_a_block_that_outlasts_a_round_of_the_curriculum_is_continued_bitwise():
    """The bound grows between two rounds of one block; the second is learned by a run that was saved in between."""
    whole, second = improver(refresh=50), improver(refresh=50)
    whole.set_bound(0.5)
    updates(whole, 0, 2)
    whole.set_bound(1.5)
    updates(whole, 2, 3)
    second.modules().load_state_dict(whole.modules().state_dict())
    for name, optimizer in whole.optimizers().items():
        second.optimizers()[name].load_state_dict(copy.deepcopy(optimizer.state_dict()))
    second.load_extra_state(json.loads(json.dumps(whole.extra_state())))
    assert updates(second, 3, 6) == updates(whole, 3, 6)


# ---------------------------------------------------------------------------------------------------------------- files


def test_what_is_saved_is_what_acts(tmp_path):
    base = tiny_policy(3, {"front": (32, 32)})
    save_policy(base, tmp_path / "base")
    made = improver(base, latent_map={"kind": "basis", "rank": 4})
    updates(made, 0, 2)
    (tmp_path / "out").mkdir()
    file = made.save(tmp_path / "out", "../base")
    loaded = robopolicy.load(file)
    obs = random_observation(base, 3)
    steered = made.candidates()["steered"]
    np.testing.assert_array_equal(loaded.act(obs, KEYS).actions, steered.act(obs, KEYS).actions)
    assert policy_hash(loaded) == policy_hash(steered)
    told = describe_nesting(loaded)
    assert told["settings"]["latent_map"] == "basis(4, dct)"
    assert set(told["parts"]) == {"policy", "actor"}
    data = yaml.safe_load(file.read_text())
    hashes = {"policy": policy_hash(base), "actor": policy_hash(load_noise_actor(tmp_path / "out" / "noise_actor"))}
    file.write_text(yaml.safe_dump({**data, "sha256": hashes}))
    robopolicy.load(file)
    file.write_text(yaml.safe_dump({**data, "sha256": {**hashes, "actor": "0" * 64}}))
    with pytest.raises(CheckpointError, match="actor: other weights"):
        robopolicy.load(file)
    ranked = {"format": 1, "type": "value_guided", "policy": {**data, "deterministic": False}, "critic": "random"}
    (tmp_path / "out" / "ranked.yaml").write_text(yaml.safe_dump(ranked))
    assert "choice" in robopolicy.load(tmp_path / "out" / "ranked.yaml").act(obs, KEYS).info


def test_another_decoder_and_damaged_files_are_refused_with_the_place(tmp_path):
    save_policy(tiny_policy(), tmp_path / "base")
    save_policy(tiny_policy(num_inference_steps=2), tmp_path / "faster")
    made = improver()
    made.save(tmp_path, "faster")
    with pytest.raises(PolicyInterfaceError, match=r"policy\.yaml: the actor learned through another decoder"):
        robopolicy.load(tmp_path / "policy.yaml")
    made.save(tmp_path, "base")
    weights = tmp_path / "noise_actor" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"actor: .*model\.safetensors"):
        robopolicy.load(tmp_path / "policy.yaml")


def test_the_method_is_known_by_its_name():
    assert improvers.IMPROVERS is IMPROVERS
    kind = IMPROVERS.get("dsrl")
    assert kind.config_class is DSRLConfig
    base = tiny_policy()
    made = kind.make(DSRLConfig(hidden=(8,)), Beginning(base, base.observation_spec, statistics(base)))
    assert isinstance(made, DSRLImprover)


def test_published_settings_are_sections_of_a_configuration():
    text = (Path(str(resource("policies"))) / "dsrl" / "paper.yaml").read_text()
    variants = yaml.safe_load(text)["variants"]
    built = {name: build_config(DSRLConfig, variant["dsrl"], name) for name, variant in variants.items()}
    assert len(built) == 10
    assert {c.bound for c in built.values()} == {1.0, 1.5, 2.0, 2.5}
    assert {name for name, c in built.items() if c.variant == "sac"} == {
        "transport", "pi0_libero", "pi0_aloha", "pi0_droid"
    }  # fmt: skip
    assert all(c.density == "scaled" for name, c in built.items() if name.startswith("pi0"))
