"""Real-time chunking as a policy: the same guidance on every path, exact answers on Gaussians, refusals, nesting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml

import robopolicy
from robopolicy.core.errors import ConfigError, InvalidAction, MissingCapability
from robopolicy.core.policy import Prediction
from robopolicy.core.specs import ACTION, STATE, ActionSpace, ChannelKind
from robopolicy.paths.linear import LinearFlow
from robopolicy.paths.vp import VPDiscrete
from robopolicy.policies.flow import FlowConfig
from robopolicy.policies.io import save_policy
from robopolicy.policies.registry import make_policy
from robopolicy.samplers.registry import make_sampler
from robopolicy.testing.heads import tiny_head
from robopolicy.testing.teacher_policy import Layout, TeacherPolicy
from robopolicy.testing.teachers import GaussianTeacher
from robopolicy.testing.tiny import TINY_UNET, random_observation, tiny_spec, unit_stats
from robopolicy.wrappers.compose import ComposedPolicy
from robopolicy.wrappers.execution import Guide
from robopolicy.wrappers.execution.policy import RealTimePolicy, real_time
from robopolicy.wrappers.real_time import (
    guidance_weight,
    guided_denoiser,
    guided_velocity,
    prefix_weights,
    steady_cap,
)
from robopolicy.wrappers.rerank import ValueGuidedPolicy
from robopolicy.wrappers.rerank_scorers import RandomSelector
from robopolicy.wrappers.steer import PriorActor, SteeredPolicy

H, D, INF = 8, 2, float("inf")
VP, FLOW = VPDiscrete.make(), LinearFlow(0)
SPACING = {VP: "trailing", FLOW: "linear"}


def guide(horizon: int = H, dim: int = D, held: int = 3, end: int = 6, seed: int = 0) -> Guide:
    previous = np.random.default_rng(seed).uniform(-0.9, 0.9, (horizon, dim)).astype(np.float32)
    return Guide(previous, prefix_weights("linear", held, end, horizon).numpy(), held)


def teacher(path, sampler: str = "ddim", steps: int = 10, std: float = 1.0) -> TeacherPolicy:
    made = make_sampler(sampler, clip=None)
    layout = Layout(horizon=H, dim=D, n_action_steps=4, space=ActionSpace(D))
    return TeacherPolicy(GaussianTeacher(path, 0.0, std), path.grid(steps, SPACING[path]), made, layout)


def chunks_of(policy, guides, rows: int = 3):
    keys = [(5, i, 0) for i in range(rows)]
    return policy.act(policy.policy.blank(rows), noise_keys=keys, guide=guides).actions


class TestMathematics:
    @pytest.mark.parametrize("jacobian", ["true", "identity"])
    @pytest.mark.parametrize("tau", [0.05, 0.3, 0.8])
    def test_on_a_flow_it_is_the_published_velocity(self, jacobian, tau):
        torch.manual_seed(0)
        k = torch.randn(H * D, H * D).double() / 5
        x, previous = torch.randn(2, 4, H, D).double().unbind(0)
        weights = prefix_weights("exp", 3, 7, H).double()

        def velocity(x, tau):
            return (x.flatten(1) @ k.T).unflatten(1, (H, D)) * (1 + tau)

        def denoise(z, t):
            v = velocity(z, float(t))
            return Prediction(z + (1 - t) * v, z - t * v, (1 - t) / t)

        time = torch.tensor(tau, dtype=torch.float64)
        held = weights[None, :, None].expand(4, H, 1)
        said = guided_denoiser(denoise, FLOW, previous, held, cap=10.0, jacobian=jacobian)(x, time)
        want = guided_velocity(velocity, x, tau, previous, weights, cap=10.0, jacobian=jacobian)
        torch.testing.assert_close(said.x0 - said.eps, want, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(tau * said.x0 + (1 - tau) * said.eps, x, atol=1e-9, rtol=1e-9)

    @pytest.mark.parametrize("t", [3, 40, 80])
    def test_on_a_variance_preserving_path_the_uncapped_pull_is_j_transposed_error_over_alpha(self, t):
        torch.manual_seed(0)
        k = torch.randn(H * D, H * D).double() / 5
        z, previous = torch.randn(2, 4, H, D).double().unbind(0)
        weights = prefix_weights("linear", 3, 7, H).double()[None, :, None].expand(4, H, 1)
        alpha, sigma = (float(c[0]) for c in VP.levels([t]))

        def denoise(z, t):
            x0 = (z.flatten(1) @ k.T).unflatten(1, (H, D))
            return Prediction(x0, (z - alpha * x0) / sigma, torch.tensor(sigma / alpha))

        plain = denoise(z, t)
        pull = (((previous - plain.x0) * weights).flatten(1) @ k).unflatten(1, (H, D))
        said = guided_denoiser(denoise, VP, previous, weights, cap=INF)(z, torch.tensor(t))
        torch.testing.assert_close(said.x0, plain.x0 + pull / alpha)
        torch.testing.assert_close(alpha * said.x0 + sigma * said.eps, z)
        kappa = sigma / alpha
        capped = guided_denoiser(denoise, VP, previous, weights, cap=2.5)(z, torch.tensor(t))
        factor = sigma * min(2.5, kappa + 1 / kappa)
        torch.testing.assert_close(capped.x0, plain.x0 + factor * pull)
        assert guidance_weight(1 / (1 + kappa), INF) == pytest.approx(kappa + 1 / kappa)

    @pytest.mark.parametrize("path", [VP, FLOW], ids=["vp", "flow"])
    @pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "euler"])
    def test_the_posterior_of_independent_gaussians_exactly(self, path, sampler):
        """Data N(0, I), prefix known: its steps are the old chunk's, the others are what they would have been."""
        policy = RealTimePolicy(teacher(path, sampler), cap="none")
        hard = guide(held=3, end=3)
        led, plain = chunks_of(policy, [hard] * 3), chunks_of(policy, None)
        # From pure noise the flow's factor is infinite: its first level is left alone, the others make up for it.
        assert np.abs(led[:, :3] - hard.previous[:3]).max() < (1e-4 if path is VP else 1e-3)
        np.testing.assert_allclose(led[:, 3:], plain[:, 3:], atol=1e-5)

    @pytest.mark.parametrize("path", [VP, FLOW], ids=["vp", "flow"])
    @pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
    def test_correlated_gaussians_follow_their_posterior(self, path, sampler):
        """Steps correlated as exp(-distance / 4); the posterior given the first three is known in closed form.

        The prefix is met exactly.  The free steps lean the right way, and further than the posterior's mean: the
        method takes the estimate's errors for independent (measured: at most 0.45 too far for a prefix near 1).
        """
        index = torch.arange(H).double()
        cov = torch.exp(-(index[:, None] - index).abs() / 4)
        values, vectors = torch.linalg.eigh(cov)

        def denoise(z, t):
            alpha, sigma = (float(c[0]) for c in path.levels([t.item()]))
            gain = vectors @ torch.diag(alpha * values / (alpha**2 * values + sigma**2)) @ vectors.T
            x0 = torch.einsum("ij,njd->nid", gain, z)
            return Prediction(x0, (z - alpha * x0) / sigma, torch.tensor(sigma / alpha if alpha else INF))

        previous = torch.zeros(2048, H, 1).double()
        previous[:, :3, 0] = torch.tensor([1.0, 1.2, 0.5])
        weights = prefix_weights("zeros", 3, 3, H).double()[None, :, None].expand(2048, H, 1)
        z = torch.randn(2048, H, 1, generator=torch.Generator().manual_seed(0)).double()
        solver = make_sampler(sampler, clip=None)
        led = guided_denoiser(denoise, path, previous, weights, cap=INF, keeps_eps=solver.keeps_eps)
        got = solver(led, path, path.grid(50, SPACING[path]), z)
        assert float((got - previous)[:, :3].abs().max()) < 5e-3
        gain = cov[3:, :3] @ torch.linalg.inv(cov[:3, :3])
        mean, spread = gain @ previous[0, :3, 0], (cov[3:, 3:] - gain @ cov[:3, 3:]).diagonal().sqrt()
        over = got[:, 3:, 0].mean(0) - mean
        assert bool((over > -0.05).all())
        assert float(over.max()) < 0.45
        torch.testing.assert_close(got[:, 3:, 0].std(0), spread, atol=0.06, rtol=0)

    @pytest.mark.parametrize("path", [VP, FLOW], ids=["vp", "flow"])
    @pytest.mark.parametrize("jacobian", ["true", "identity"])
    def test_weights_decide_how_near_the_chunk_comes(self, path, jacobian):
        policy = RealTimePolicy(teacher(path, std=0.7), jacobian=jacobian)
        soft = guide(held=2, end=7)
        led, plain = chunks_of(policy, [soft] * 64, 64), chunks_of(policy, None, 64)
        gap = [np.abs(c - soft.previous).mean((0, 2)) for c in (plain, led)]
        assert (gap[1][:2] < 0.2 * gap[0][:2]).all()
        assert (gap[1][:7] < gap[0][:7]).all()
        assert gap[1][2] < gap[1][6]
        np.testing.assert_allclose(led[:, 7:], plain[:, 7:], atol=1e-5)

    def test_the_cap_follows_the_number_of_steps_unless_it_is_given(self):
        policy = head("flow")
        for steps, cap in ((1, 0.5), (4, 2.0), (5, 2.5), (20, 10.0), (50, 10.0)):
            policy.set_sampler(num_inference_steps=steps)
            assert RealTimePolicy(policy).cap == RealTimePolicy(policy, cap=None).cap == cap == steady_cap(steps)
            assert RealTimePolicy(policy, cap=7).cap == 7.0
            assert RealTimePolicy(policy, cap="none").cap == INF
        with pytest.raises(ConfigError, match="at least one step"):
            steady_cap(0)

    def test_levels_without_noise_are_passed_through(self):
        said = Prediction(torch.ones(1, H, D), torch.zeros(1, H, D), torch.tensor(0.0))
        held = torch.ones(1, H, 1)
        led = guided_denoiser(lambda z, t: said, FLOW, torch.zeros(1, H, D), held)
        assert led(torch.ones(1, H, D), torch.tensor(1.0)) is said
        with pytest.raises(MissingCapability, match="jacobian: identity"):
            led(torch.ones(1, H, D), torch.tensor(0.5))
        with pytest.raises(ConfigError, match="identity"):
            guided_denoiser(lambda z, t: said, FLOW, torch.zeros(1, H, D), held, jacobian="no")


HEADS = [("diffusion", {}), ("diffusion", {"sampler": "dpmpp_2m"}), ("diffusion", {"sampler": "ddpm"}),
         ("flow", {}), ("flow", {"sampler": "heun"}), ("beso", {})]  # fmt: skip


def head(name: str, **sampler):
    torch.manual_seed(0)
    policy = tiny_head(name, "unet").eval()
    if sampler:
        policy.set_sampler(**sampler)
    return policy


@pytest.mark.parametrize(("name", "sampler"), HEADS)
class TestHeads:
    def test_without_anything_held_it_is_the_plain_policy_to_the_last_bit(self, name, sampler):
        plain = head(name, **sampler)
        policy = RealTimePolicy(plain)
        obs, keys = random_observation(plain, 3), [(1, i, 0) for i in range(3)]
        spec = plain.action_spec
        want = plain.act(obs, noise_keys=keys)
        nothing = Guide(np.ones((spec.horizon, spec.dim), np.float32), np.zeros(spec.horizon, np.float32), 0)
        for guides in (None, nothing, [nothing] * 3, [None] * 3, [None, nothing, None]):
            guides = [guides] * 3 if isinstance(guides, Guide) else guides
            assert np.array_equal(policy.act(obs, noise_keys=keys, guide=guides).actions, want.actions)
        ctx = plain.encode(obs)
        latent, tape = plain.noise_of(keys)
        with torch.no_grad():
            assert torch.equal(
                policy.decode(policy.encode(obs), latent, tape=tape), plain.decode(ctx, latent, tape=tape)
            )

    @pytest.mark.parametrize("jacobian", ["true", "identity"])
    def test_guided_rows_continue_the_old_chunk_and_the_others_stay(self, name, sampler, jacobian):
        plain = head(name, **sampler)
        policy = RealTimePolicy(plain, jacobian=jacobian)
        obs, keys = random_observation(plain, 4), [(1, i, 0) for i in range(4)]
        spec = plain.action_spec
        held = guide(spec.horizon, spec.dim, 3, 6)
        free = policy.act(obs, noise_keys=keys)
        led = policy.act(obs, noise_keys=keys, guide=[held, None, held, None])
        gaps = [np.abs(c.actions[::2, :3] - held.previous[:3]).mean() for c in (free, led)]
        assert gaps[1] < 0.5 * gaps[0]
        np.testing.assert_allclose(led.actions[1::2], free.actions[1::2], atol=1e-5)
        assert led.info["prefix_error"][1::2].tolist() == [0, 0]
        assert (led.info["prefix_error"][::2] > 0).all()
        assert all(p.grad is None for p in policy.parameters())
        again = policy.act(obs, noise_keys=keys, guide=[held, None, held, None])
        assert np.array_equal(again.actions, led.actions)


def test_padding_and_constant_channels_are_never_pulled():
    kinds = (ChannelKind.EUCLIDEAN, ChannelKind.PADDING, ChannelKind.EUCLIDEAN)
    stats = {STATE: unit_stats(3), ACTION: unit_stats(3)}
    config = FlowConfig(horizon=8, n_action_steps=4, unet=TINY_UNET, num_inference_steps=4)
    policy = RealTimePolicy(make_policy(config, tiny_spec(3), ActionSpace(3, kinds=kinds), 10.0, stats).eval())
    obs = random_observation(policy, 1)
    led = policy.act(obs, noise_keys=[(0,)], guide=guide(8, 3))
    free = policy.act(obs, noise_keys=[(0,)])
    assert np.array_equal(led.actions[..., 1], free.actions[..., 1])
    assert not np.array_equal(led.actions[..., 0], free.actions[..., 0])


class TestNesting:
    def test_around_a_composition_and_inside_a_reranker(self):
        parents = [head("diffusion"), head("flow")]
        composed = ComposedPolicy(parents, (0.5, 0.5))
        policy = RealTimePolicy(composed)
        obs, keys = random_observation(policy, 3), [(2, i) for i in range(3)]
        spec = policy.action_spec
        held = guide(spec.horizon, spec.dim)
        gaps = []
        for guides in (None, [held] * 3):
            actions = policy.act(obs, noise_keys=keys, guide=guides).actions
            gaps.append(np.abs(actions[:, :3] - held.previous[:3]).mean())
        assert gaps[1] < 0.5 * gaps[0]
        around = ValueGuidedPolicy(policy, RandomSelector(), num_samples=2)
        assert np.array_equal(
            around.act(obs, noise_keys=keys).actions,
            ValueGuidedPolicy(composed, RandomSelector(), num_samples=2).act(obs, noise_keys=keys).actions,
        )

    def test_from_yaml(self, tmp_path):
        torch.manual_seed(0)
        save_policy(tiny_head("diffusion", "unet"), tmp_path / "base")
        for written, jacobian in ((True, "true"), ("true", "true"), ("identity", "identity")):
            data = {"type": "real_time", "policy": "base", "cap": 5, "jacobian": written}
            (tmp_path / "rt.yaml").write_text(yaml.safe_dump({**data, "sampler": {"num_inference_steps": 3}}))
            policy = robopolicy.load(tmp_path / "rt.yaml")
            assert isinstance(policy, RealTimePolicy)
            assert (policy.cap, policy.jacobian, policy.denoiser_calls) == (5.0, jacobian, 3)
        for written, cap in (
            ("", 1.5),
            (", cap: auto", 1.5),
            (", cap: null", 1.5),
            (", cap: none", INF),
            (", cap: 4", 4),
        ):
            text = f"{{type: real_time, policy: base, sampler: {{num_inference_steps: 3}}{written}}}"
            (tmp_path / "rt.yaml").write_text(text)
            assert robopolicy.load(tmp_path / "rt.yaml").cap == cap
        (tmp_path / "rt.yaml").write_text("{type: real_time, policy: base, schedule: exp}")
        with pytest.raises(ConfigError, match=r"rt\.yaml: unknown key 'schedule'"):
            robopolicy.load(tmp_path / "rt.yaml")
        assert real_time(policy) is policy


class TestRefusals:
    @pytest.mark.parametrize("name", ["ebt", "one_step", "reranked", "steered", "keypose", "nested"])
    def test_policies_that_cannot_be_guided(self, name):
        base = head("flow")
        one_step = FlowConfig(horizon=8, n_action_steps=4, unet=TINY_UNET, one_step=True, num_inference_steps=1)
        made = {
            "ebt": lambda: tiny_head("ebt", "unet").eval(),
            "one_step": lambda: make_policy(
                one_step, tiny_spec(3), ActionSpace(2), 10.0, {STATE: unit_stats(3), ACTION: unit_stats(2)}
            ).eval(),
            "reranked": lambda: ValueGuidedPolicy(base, RandomSelector(), num_samples=2),
            "steered": lambda: SteeredPolicy(base, PriorActor()),
            "keypose": lambda: tiny_head("diffuser_actor_3d", "keypose", "depth").eval(),
            "nested": lambda: RealTimePolicy(base),
        }[name]()
        with pytest.raises(MissingCapability, match="RealTimePolicy"):
            RealTimePolicy(made)

    def test_guides_that_do_not_fit(self):
        policy = RealTimePolicy(head("flow"))
        obs = random_observation(policy, 2)
        with pytest.raises(InvalidAction, match="1 guides for 2 observations"):
            policy.act(obs, guide=guide(policy.action_spec.horizon, policy.action_spec.dim))
        with pytest.raises(InvalidAction, match=r"expected previous \("):
            policy.act(obs, guide=[guide(6, 2), None])

    def test_impossible_settings(self):
        for options in ({"cap": -1}, {"cap": float("nan")}, {"cap": "most"}, {"jacobian": "half"}):
            with pytest.raises(ConfigError):
                RealTimePolicy(head("flow"), **options)
