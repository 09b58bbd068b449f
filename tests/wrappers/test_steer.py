"""DSRL's wrapper: decoders in closed form (D1), identity start (D7), determinism (D8), guard rails (D12), nestings."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from robopolicy.core.errors import (
    ConfigError,
    HorizonMismatch,
    InvalidObservation,
    NonDeterministicDecoder,
    PolicyInterfaceError,
    UntrainableComposite,
)
from robopolicy.core.policy import Cap
from robopolicy.core.specs import STATE, FeatureKind, FeatureSpec, ObservationSpec
from robopolicy.paths.vp import VPDiscrete
from robopolicy.samplers.ddim import DDIM
from robopolicy.testing.heads import BACKBONES, tiny_head
from robopolicy.testing.reranking import FunctionCritic, GaussianPolicy
from robopolicy.testing.teacher_policy import TeacherPolicy
from robopolicy.testing.teachers import GaussianTeacher
from robopolicy.testing.tiny import random_observation, tiny_policy
from robopolicy.wrappers.compose import ComposedPolicy
from robopolicy.wrappers.rerank import ValueGuidedPolicy
from robopolicy.wrappers.steer import PriorActor, SteeredPolicy, base_vector, decoder_of
from robopolicy.wrappers.steer_config import LatentMapConfig
from robopolicy.wrappers.steer_probe import PriorMismatchWarning

KEYS = [(3, row, 2) for row in range(3)]


class FixedActor(nn.Module):
    """Numbers ``bound * tanh(mean + std * eps)``, the mean the newest state's first number where it reads any."""

    decoder = None

    def __init__(self, mean: float = 0.3, std: float = 0.5, bound: float = 1.5, keys=(), steps: int = 1, **options):
        super().__init__()
        self.mean, self.std, self.bound, self.n_obs_steps = mean, std, bound, steps
        features = tuple(FeatureSpec(k, (2,), FeatureKind.STATE) for k in keys)
        self.observation_spec = ObservationSpec(features)
        self.latent_map = LatentMapConfig(**options)
        self.dims = 0
        self.seen: list[dict] = []

    def encode(self, checked, base):
        self.seen.append(checked)
        rows = base.batch_size
        return checked[STATE][:, -1, :1].float() if STATE in checked else torch.full((rows, 1), self.mean)

    def numbers(self, features, eps, bound):
        if eps is None:
            return (features * torch.ones(1, self.dims)).tanh() * bound
        return (features + self.std * eps).tanh() * bound


def steered(policy=None, actor=None, **options) -> SteeredPolicy:
    made = SteeredPolicy(policy or GaussianPolicy(dim=2), actor or FixedActor(), **options)
    made.actor.dims = made.map.dim
    return made


def observation(rows: int = 3) -> dict[str, np.ndarray]:
    return {STATE: np.linspace(-1, 1, 4 * rows, dtype=np.float32).reshape(rows, 2, 2)}


# ------------------------------------------------------------------------------------------------------------------ D1


LEADING, TRAILING = (84, 72, 60, 48, 36, 24, 12, 0), (99, 86, 74, 62, 49, 37, 24, 12)


@pytest.mark.parametrize(
    ("levels", "slope", "offset"),
    [(range(99, -1, -1), 0.4921, 0.29993), (LEADING, 0.4295, 0.2702), (TRAILING, 0.4090, 0.29994)],
    ids=["all", "leading", "trailing"],
)
def test_d1_the_decoder_of_a_gaussian_has_its_closed_form(levels, slope, offset):
    path, m, v = VPDiscrete.make("squaredcos_cap_v2", 100), 0.3, 0.25
    times = torch.tensor(list(levels))
    policy = TeacherPolicy(GaussianTeacher(path, m, v**0.5), times, DDIM(clip=None))
    latent = torch.tensor([-2.0, 0.0, 1.0, 3.0]).view(4, 1, 1)
    a = policy.decode(policy.encode(policy.blank(4)), latent).flatten().double()
    found = float(a[2] - a[1]), float(a[1])
    torch.testing.assert_close(a, found[1] + found[0] * latent.flatten().double(), atol=1e-5, rtol=0)  # affine
    kappa = path.kappa(times).double().tolist()
    shrink = math.prod((v + k * n) / (v + k * k) for k, n in zip(kappa, [*kappa[1:], 0.0], strict=True))
    alpha = 1 / math.sqrt(1 + kappa[0] ** 2)
    assert found == pytest.approx((shrink / alpha, m - m * shrink), abs=1e-4)
    assert found == pytest.approx((slope, offset), abs=1e-4)


# ------------------------------------------------------------------------------------------------------------------ D7


@pytest.mark.parametrize("options", [{}, {"kind": "basis", "rank": 8}])
def test_d7_an_actor_that_is_the_prior_is_the_base(options):
    base = tiny_policy()
    policy = SteeredPolicy(base, PriorActor(LatentMapConfig(**options)), deterministic=False)
    obs = random_observation(base, 3)
    got, alone = policy.act(obs, KEYS), base.act(obs, KEYS)
    if not options:
        np.testing.assert_array_equal(got.actions, alone.actions)  # the very same draws
    # The same law otherwise: first and second moments of 400 chunks of one observation.
    ctx = policy.encode({k: v[:1] for k, v in obs.items()})
    ours = policy.sample(ctx, 400, torch.Generator().manual_seed(0))[0]
    theirs = base.sample(ctx.parts[0], 400, torch.Generator().manual_seed(1))[0]
    tolerance = 4 * theirs.std(0).max() * (2 / 400) ** 0.5
    assert float((ours.mean(0) - theirs.mean(0)).abs().max()) < tolerance
    assert float((ours.std(0) - theirs.std(0)).abs().max()) < tolerance


def test_d7_an_additive_map_at_offset_zero_and_a_wide_bound_are_the_base_s_law():
    base = GaussianPolicy(dim=2)
    for actor in (PriorActor(LatentMapConfig(kind="additive")), PriorActor(bound=6.0)):
        policy = SteeredPolicy(base, actor, deterministic=False)
        chunks = np.concatenate([policy.act(observation(), [(1, e, 0) for e in (i, i + 1, i + 2)]).actions
                                 for i in range(0, 900, 3)])  # fmt: skip
        assert abs(float(chunks.mean())) < 0.05
        assert abs(float(chunks.std()) - 1.0) < 0.05
    narrow = SteeredPolicy(base, PriorActor(bound=0.5), deterministic=False)
    assert float(np.abs(narrow.act(observation(), KEYS).actions).max()) == 0.5  # clipped, as sac warms up


# ------------------------------------------------------------------------------------------------------------------ D8


@pytest.mark.parametrize("head", ["diffusion", "flow", "beso", "ebt", "seed_policy", "diffuser_actor_3d"])
def test_d8_every_head_with_a_deterministic_decoder_is_steered_bitwise(head):
    kind = {"diffuser_actor_3d": "depth", "seed_policy": "memory"}.get(head, "state")
    options = {"sampler": "ddim"} if head in ("seed_policy", "diffuser_actor_3d") else {}
    options = {"sampler": "ddim"} if head == "beso" else options
    base = tiny_head(head, BACKBONES[head][0], kind)
    if Cap.DECODE not in base.caps:
        with pytest.raises(NonDeterministicDecoder, match="ddim with eta 0"):
            steered(base)
        base.set_sampler(**options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PriorMismatchWarning)
        policy = steered(base)
    obs = random_observation(base, 3)
    first = policy.act(obs, KEYS)
    policy.reset()
    again = policy.act(obs, [(9, 9, 9)] * 3)  # the mode follows no key
    np.testing.assert_array_equal(first.actions, again.actions)
    policy.reset()
    latent = policy.map(policy.actor.numbers(torch.full((3, 1), 0.3), None, 1.5))
    expected = base.norm.to_phys(base.decode(base.encode(obs), latent)).detach().numpy()
    np.testing.assert_allclose(first.actions, expected.clip(base._low, base._high), atol=1e-4)
    assert set(first.info) >= {"latent_rms", "latent_edge"}


def test_d8_an_ancestral_sampler_is_refused_and_so_is_training_mode():
    with pytest.raises(NonDeterministicDecoder, match="deterministic sampler"):
        steered(tiny_policy(sampler="ddpm"))
    with pytest.raises(NonDeterministicDecoder):
        steered(tiny_policy(sampler="ddim", sampler_options={"eta": 0.5}))
    training = tiny_policy()
    training.train()
    with pytest.raises(PolicyInterfaceError, match="training mode"):
        steered(training)


def test_d8_rows_do_not_depend_on_the_batch_and_samples_follow_their_keys():
    policy = steered(actor=FixedActor(keys=[STATE]), deterministic=False)
    whole = policy.act(observation(), KEYS).actions
    alone = policy.act({STATE: observation()[STATE][1:2]}, KEYS[1:2]).actions
    np.testing.assert_allclose(whole[1:2], alone, atol=1e-6)
    assert not np.array_equal(whole, policy.act(observation(), [(3, row, 3) for row in range(3)]).actions)


# ---------------------------------------------------------------------------------------------------------- the actor


def test_the_actor_reads_its_own_newest_steps_and_the_base_is_encoded_once():
    actor = FixedActor(keys=[STATE])
    policy = steered(actor=actor)
    policy.act(observation(), KEYS)
    assert policy.encoder_calls == len(actor.seen) == 1
    assert tuple(actor.seen[0][STATE].shape) == (3, 1, 2)
    other = FixedActor(keys=["observation.environment_state"])
    both = steered(actor=other)
    assert set(both.observation_spec.keys) == {STATE, "observation.environment_state"}
    with pytest.raises(InvalidObservation, match="environment_state"):
        both.act(observation(), KEYS)


def test_explore_returns_the_numbers_that_were_decoded():
    base = GaussianPolicy(dim=2, horizon=4)
    policy = steered(base, FixedActor(kind="repeat"), deterministic=False)
    found = policy.explore(observation(), KEYS)
    assert found.latent.shape == (3, 2)
    assert found.latent.dtype == np.float32
    np.testing.assert_allclose(found.chunk.actions, np.repeat(found.latent[:, None], 4, 1), atol=1e-6)
    np.testing.assert_allclose(found.chunk.info["latent_rms"], np.sqrt((found.latent**2).mean(1)), rtol=1e-5)


def test_the_bound_follows_the_actor_unless_it_is_given():
    actor = FixedActor(mean=50.0)
    policy, fixed = steered(actor=actor), steered(actor=actor, bound=0.25)
    assert float(np.abs(policy.act(observation(), KEYS).actions).max()) == 1.5
    assert policy.act(observation(), KEYS).info["latent_edge"].min() == 1.0
    actor.bound = 0.5  # a curriculum
    assert float(np.abs(policy.act(observation(), KEYS).actions).max()) == 0.5
    assert float(np.abs(fixed.act(observation(), KEYS).actions).max()) == 0.25
    with pytest.raises(ConfigError, match="bound must be > 0"):
        steered(bound=0.0)


def test_base_features_are_the_policy_s_own_vector():
    base = tiny_policy()
    ctx = base.encode(random_observation(base, 2))
    assert torch.equal(base_vector(ctx), ctx.vector)
    two = ComposedPolicy([tiny_policy(), tiny_policy(seed=1)])
    assert base_vector(two.encode(random_observation(two, 2))).shape == (2, 2 * ctx.vector.shape[1])


# ------------------------------------------------------------------------------------------------------ guards (D12)


def test_d12_what_is_no_function_of_a_latent_is_refused_with_the_way_round():
    ranked = ValueGuidedPolicy(GaussianPolicy(), FunctionCritic(lambda a: a[..., 0, 0], GaussianPolicy()))
    with pytest.raises(NonDeterministicDecoder, match="inside"):
        steered(ranked)
    with pytest.raises(NonDeterministicDecoder, match="actor's business"):
        steered().require(Cap.DECODE, whom="SteeredPolicy")
    with pytest.raises(NonDeterministicDecoder, match="lacks DECODE"):
        steered(steered())
    with pytest.raises(UntrainableComposite):
        steered().train()
    with pytest.raises(UntrainableComposite):
        steered().supervised_loss()


def test_d12_another_decoder_than_the_actor_s_is_refused():
    base, actor = tiny_policy(), FixedActor()
    actor.decoder = decoder_of(base)
    steered(base, actor)
    base.set_sampler(num_inference_steps=3)
    with pytest.raises(PolicyInterfaceError, match="num_inference_steps 4, now 3"):
        steered(base, actor)
    with pytest.raises(ConfigError, match="learned through this decoder"):
        steered(tiny_policy()).set_sampler(num_inference_steps=2)
    two = ComposedPolicy([tiny_policy(), tiny_policy(seed=1)], (0.5, 0.5))
    actor.decoder = decoder_of(two)
    with pytest.raises(PolicyInterfaceError, match="weights"):
        steered(ComposedPolicy([tiny_policy(), tiny_policy(seed=1)], (0.4, 0.6)), actor)


def test_d12_an_actor_that_looks_further_back_than_the_policy_is_refused():
    with pytest.raises(HorizonMismatch, match="n_obs_steps=2"):
        steered(actor=FixedActor(keys=[STATE], steps=3))


def test_d12_a_prior_that_the_decoder_never_saw_is_a_warning():
    actor = tiny_head("diffuser_actor_3d", "trajectory", "depth", denoise_steps=100)
    if Cap.DECODE not in actor.caps:
        actor.set_sampler(sampler="ddim")
    with pytest.warns(PriorMismatchWarning, match="noise ratio of 1.03"):
        steered(actor)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steered(tiny_policy())


def test_the_prior_has_no_mode():
    with pytest.raises(ConfigError, match="sample"):
        SteeredPolicy(GaussianPolicy(), PriorActor()).act(observation(), KEYS)


# ----------------------------------------------------------------------------------------------------------- nestings


def test_v_gps_ranks_samples_of_the_actor():
    base = GaussianPolicy(dim=1)
    inner = steered(base, FixedActor(mean=0.0, std=1.0, bound=0.9), deterministic=False)
    critic = FunctionCritic(lambda a: a[..., 0, 0], base)
    ranked = ValueGuidedPolicy(inner, critic, num_samples=8, temperature=0.0)
    got = ranked.act(observation(), KEYS)
    candidates = np.stack(
        [inner.act(observation(), [k if j == 0 else (*k, j) for k in KEYS]).actions for j in range(8)]
    )
    best = candidates[:, :, base.action_spec.exec_start, 0].argmax(0)
    np.testing.assert_array_equal(got.info["choice"], best)
    np.testing.assert_allclose(got.actions, candidates[best, np.arange(3)], atol=1e-6)
    sampled = ranked.sample(ranked.encode(observation(1)), 2, torch.Generator().manual_seed(0))
    assert sampled.shape == (1, 2, 4, 1)


def test_a_composition_is_steered():
    two = ComposedPolicy([tiny_policy(), tiny_policy(seed=1)], (0.3, 0.7))
    policy = steered(two)
    obs = random_observation(two, 3)
    latent = policy.map(policy.actor.numbers(torch.full((3, 1), 0.3), None, 1.5))
    with torch.no_grad():
        expected = two.norm.to_phys(two.decode(two.encode(obs), latent)).numpy()
    chunk = policy.act(obs, KEYS)
    np.testing.assert_allclose(chunk.actions, expected.clip(-1, 1), atol=1e-5)
    assert "disagreement" in chunk.info  # what the base tells is passed on
