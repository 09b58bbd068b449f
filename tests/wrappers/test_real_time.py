"""Real-time chunking: published weights and caps, both forms of the pull on a linear flow, and what a solve does."""

from __future__ import annotations

import math

import pytest
import torch

from robopolicy.core.errors import ConfigError, InvalidAction
from robopolicy.core.specs import ACTION, STATE, ActionSpace
from robopolicy.policies.flow import FlowConfig
from robopolicy.policies.registry import make_policy
from robopolicy.testing.tiny import TINY_UNET, random_observation, tiny_spec, unit_stats
from robopolicy.wrappers.real_time import guidance_weight, guided_velocity, prefix_weights, steady_cap

H, D = 16, 3


@pytest.mark.parametrize(
    ("time", "want"), [(1.0, 10.0), (0.7, 2.7619), (0.5, 2.0), (0.2, 4.25), (0.1, 9.1111), (0.05, 10.0), (0.0, 10.0)]
)
def test_published_guidance_weights(time, want):
    """Oracle 10.6; ``time`` is LeRobot's, 1 at noise."""
    assert guidance_weight(1 - time, 10.0) == pytest.approx(want, abs=5e-5)
    assert guidance_weight(1 - time, 1.5) == 1.5


def test_published_prefix_weights():
    linear = prefix_weights("linear", 4, 10, 16)
    assert linear.tolist() == pytest.approx([1.0] * 4 + [k / 7 for k in (6, 5, 4, 3, 2, 1)] + [0.0] * 6, abs=1e-6)
    exp = [x * (math.exp(x) - 1) / (math.e - 1) for x in linear.tolist()]
    assert prefix_weights("exp", 4, 10, 16).tolist() == pytest.approx(exp, abs=1e-6)
    assert prefix_weights("zeros", 4, 10, 16).tolist() == [1.0] * 4 + [0.0] * 12
    assert prefix_weights("ones", 4, 10, 16).tolist() == [1.0] * 10 + [0.0] * 6


@pytest.mark.parametrize("schedule", ["zeros", "linear", "exp", "ones"])
@pytest.mark.parametrize(("start", "end"), [(0, 0), (0, 16), (16, 16), (9, 4), (4, 4), (0, 5)])
def test_weights_fall_from_one_to_zero(schedule, start, end):
    weights = prefix_weights(schedule, start, end, 16)
    held = min(start, end)
    assert bool((weights[:held] == 1).all())
    assert not bool(weights[end:].any())
    assert bool((weights[1:] <= weights[:-1]).all())
    if schedule in ("linear", "exp"):
        between = weights[held:end]
        assert bool(((between > 0) & (between < 1)).all())


def pulled_by(steps: int, cap: float) -> list[float]:
    """Where ``steps`` Euler steps of a pull alone (no velocity) go, from 0 to an aim at 1."""
    x, seen = torch.zeros(1, 1, 1), [0.0]
    for i in range(steps):
        pull = guided_velocity(lambda x, tau: 0 * x, x, i / steps, torch.ones(1, 1, 1), torch.ones(1), cap, "identity")
        x = x + pull / steps
        seen.append(float(x))
    return seen


@pytest.mark.parametrize("steps", [1, 2, 4, 5, 10, 20, 50])
def test_with_the_steady_cap_no_step_leaps_over_its_aim(steps):
    seen = pulled_by(steps, steady_cap(steps))
    assert seen == sorted(seen)
    assert seen[-1] < 1
    assert seen[1] == pytest.approx(min(0.5, 10 / steps))  # at most half of the way in one step
    assert max(pulled_by(4, 10.0)) == pytest.approx(2.5)  # the published cap in four steps


def linear_case(dtype=torch.float64):
    rng = torch.Generator().manual_seed(0)
    k = torch.randn(H * D, H * D, generator=rng, dtype=dtype) / 5
    x, previous = torch.randn(2, 4, H, D, generator=rng, dtype=dtype).unbind(0)
    return k, x, previous, lambda x, tau: (x.flatten(1) @ k.T).unflatten(1, (H, D))


@pytest.mark.parametrize("tau", [0.0, 0.3, 0.8])
def test_both_forms_on_a_linear_flow(tau):
    """With v = K x the paper's pull is (1 + (1 - tau) K)^T error, the other one the error itself."""
    k, x, previous, velocity = linear_case()
    weights = prefix_weights("exp", 3, 9, H).double()
    v = velocity(x, tau)
    error = ((previous - (x + (1 - tau) * v)) * weights[:, None]).flatten(1)
    jacobian = torch.eye(H * D, dtype=torch.float64) + (1 - tau) * k
    factor = guidance_weight(tau, 10.0)
    for form, pull in (("true", error @ jacobian), ("identity", error)):
        got = guided_velocity(velocity, x, tau, previous, weights, jacobian=form)
        torch.testing.assert_close(got, v + factor * pull.unflatten(1, (H, D)), atol=1e-12, rtol=1e-12)
    both = [guided_velocity(velocity, x, tau, previous, weights, jacobian=form) for form in ("true", "identity")]
    assert float((both[0] - both[1]).abs().max()) > 0.01


def test_no_pull_without_weight_and_none_beyond_the_old_chunk():
    _, x, previous, velocity = linear_case()
    free = guided_velocity(velocity, x, 0.4, previous, torch.zeros(H))
    torch.testing.assert_close(free, velocity(x, 0.4))
    short = guided_velocity(velocity, x, 0.4, previous[:, :5], torch.ones(H), jacobian="identity")
    want = guided_velocity(velocity, x, 0.4, previous, prefix_weights("ones", 0, 5, H), jacobian="identity")
    torch.testing.assert_close(short, want)
    torch.testing.assert_close(short[:, 5:], velocity(x, 0.4)[:, 5:])


@pytest.mark.parametrize("form", ["true", "identity"])
def test_rows_are_independent_and_nothing_keeps_a_gradient(form):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(H * D, H * D), torch.nn.Tanh())

    def velocity(x, tau):
        return net(x).unflatten(1, (H, D))

    x, previous = torch.randn(2, 4, H, D).unbind(0)
    weights = prefix_weights("linear", 4, 10, H)
    with torch.no_grad():
        together = guided_velocity(velocity, x, 0.3, previous, weights, jacobian=form)
        alone = guided_velocity(velocity, x[:1], 0.3, previous[:1], weights, jacobian=form)
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=0)
    with torch.inference_mode():
        inside = guided_velocity(velocity, torch.randn(4, H, D), 0.3, previous, weights, jacobian=form)
    assert bool(inside.isfinite().all())
    assert not together.requires_grad
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("form", ["true", "identity"])
def test_a_solve_continues_the_old_chunk_and_leaves_the_end_free(form):
    """Exact flow of N(0.2, 0.5^2): the prefix lands on the old chunk, steps without weight are not touched."""
    mean, s, n = 0.2, 0.5, 20

    def velocity(x, tau):
        variance = tau**2 * s**2 + (1 - tau) ** 2
        return mean + (tau * s**2 - (1 - tau)) * (x - tau * mean) / variance

    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(256, H, D, generator=rng)
    previous = mean + s * torch.randn(256, 10, D, generator=rng)
    weights = prefix_weights("linear", 4, 10, H)

    def solve(weights):
        x = noise
        for i in range(n):
            x = x + guided_velocity(velocity, x, i / n, previous, weights, cap=5.0, jacobian=form) / n
        return x

    free, led = solve(torch.zeros(H)), solve(weights)
    gap = [(chunk[:, :10] - previous).abs().mean((0, 2)) for chunk in (free, led)]
    assert float(gap[1][:4].max()) < 0.2 * float(gap[0][:4].min())
    assert bool((gap[1] < gap[0]).all())
    assert float(gap[1][4]) < float(gap[1][9])
    torch.testing.assert_close(led[:, 10:], free[:, 10:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("noise_at", [0, 1])
def test_a_flow_head_gives_the_velocity_in_either_direction_of_time(noise_at):
    torch.manual_seed(0)
    config = FlowConfig(noise_at=noise_at, horizon=16, n_action_steps=8, unet=TINY_UNET)
    stats = {STATE: unit_stats(3), ACTION: unit_stats(D)}
    policy = make_policy(config, tiny_spec(3), ActionSpace(D), 10.0, stats).eval()
    ctx = policy.encode({k: torch.from_numpy(v) for k, v in random_observation(policy, 4).items()})

    def velocity(x, tau):
        prediction = policy.predict(ctx, x, policy.native(torch.tensor(1 - tau)))
        return prediction.x0 - prediction.eps

    x, previous = torch.randn(2, 4, H, D).unbind(0)
    weights = prefix_weights("linear", 4, 10, H)
    guided = guided_velocity(velocity, x, 0.5, previous, weights)
    with torch.no_grad():
        plain = velocity(x, 0.5)
    # Guided against the plain answer: the step that is held moves towards the old chunk's.
    error = previous - (x + 0.5 * plain)
    assert float(((guided - plain) * error)[:, :4].sum()) > 0
    assert all(p.grad is None for p in policy.parameters())


BAD = [
    (lambda: prefix_weights("cosine", 1, 2, 4), "zeros, linear, exp, ones"),
    (lambda: prefix_weights("linear", 1, 5, 4), r"within 0\.\.4"),
    (lambda: prefix_weights("linear", -1, 2, 4), r"within 0\.\.4"),
    (lambda: guidance_weight(1.2), r"tau in \[0, 1\]"),
    (lambda: guided_velocity(None, torch.zeros(1, 4, 2), 0.5, torch.zeros(1, 4, 2), torch.ones(4), jacobian="no"),
     "identity"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "words"), BAD)
def test_impossible_settings_are_refused(call, words):
    with pytest.raises(ConfigError, match=words):
        call()


@pytest.mark.parametrize(("previous", "weights"), [((2, 4, 2), 4), ((1, 5, 2), 4), ((1, 4, 3), 4), ((1, 4, 2), 5)])
def test_chunks_that_do_not_fit_are_refused(previous, weights):
    with pytest.raises(InvalidAction, match="expected"):
        guided_velocity(lambda x, tau: x, torch.zeros(1, 4, 2), 0.5, torch.zeros(previous), torch.ones(weights))
