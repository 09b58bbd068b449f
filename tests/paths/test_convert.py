"""The conversion table: round trips, signs, composition, and states carried between paths."""

from __future__ import annotations

import pytest
import torch

from robopolicy.core.errors import IncompatibleNoiseLevel
from robopolicy.paths import (
    VE,
    GaussianPath,
    Kind,
    LinearFlow,
    PerChannel,
    VPDiscrete,
    canonical,
    carry_state,
    target,
    to_edm_coords,
    to_model_coords,
    to_x0_eps,
)

MIXED = PerChannel({(0, 2): VPDiscrete.make("scaled_linear"), (2, 3): VPDiscrete.make("squaredcos_cap_v2")})
PATHS: dict[str, tuple[GaussianPath, list[float]]] = {
    "cosine": (VPDiscrete.make(), [0, 10, 50, 75, 90]),
    "linear": (VPDiscrete.make("linear"), [0, 50, 99]),
    "ve": (VE(0.002, 80), [0.05, 0.5, 1.0, 8.0]),
    "flow1": (LinearFlow(noise_at=1), [0.05, 0.5, 0.9]),
    "flow0": (LinearFlow(noise_at=0), [0.1, 0.5, 0.95]),
    "per_channel": (MIXED, [1, 50, 90]),
}


def pair(n: int = 5, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x0 = torch.rand(n, 4, 3, generator=generator, dtype=dtype) * 2 - 1
    return x0, torch.randn(n, 4, 3, generator=generator, dtype=dtype)


def times(path: GaussianPath, values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64 if path.discrete else torch.float32)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("name", PATHS)
def test_round_trip_for_every_kind_and_path(name, kind):
    path, values = PATHS[name]
    x0, eps = pair()
    for t in times(path, values):
        z = path.add_noise(x0, eps, t)
        got_x0, got_eps = to_x0_eps(kind, target(kind, x0, eps, path, t), z, path, t)
        # a float32 state carries x0 to kappa ulps and eps to 1/kappa ulps, whatever the formula
        kappa = path.kappa(t).max().item()
        assert (got_x0 - x0).abs().max().item() < 1e-5 * max(1.0, kappa / 4)
        assert (got_eps - eps).abs().max().item() < 1e-5 * max(1.0, 1 / path.kappa(t).min().item() / 4)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("name", PATHS)
def test_round_trip_in_double_precision_reaches_1e_5_at_all_levels(name, kind):
    path, _ = PATHS[name]
    x0, eps = pair(dtype=torch.float64)
    grid = {"ve": "karras", "flow1": "linear", "flow0": "linear"}.get(name, "leading")
    for t in path.grid(100 if path.discrete else 12, grid):
        t = t if path.discrete else t.double()
        a, s = (torch.as_tensor(c[0]) for c in path.levels([t.item()]))
        if not bool((a > 0).all()):
            continue
        z = a * x0 + s * eps
        if path.per_channel:
            z = path.add_noise(x0, eps, t)  # tensor coefficients are float32 by design
        got_x0, got_eps = to_x0_eps(kind, target(kind, x0, eps, path, t), z, path, t)
        assert (got_x0 - x0).abs().max().item() < 1e-5
        assert (got_eps - eps).abs().max().item() < 1e-5


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("name", PATHS)
def test_a_time_for_each_row_equals_a_time_for_all(name, kind):
    path, values = PATHS[name]
    x0, eps = pair(len(values))
    t = times(path, values)
    z = path.add_noise(x0, eps, t)
    out = target(kind, x0, eps, path, t)
    rows = to_x0_eps(kind, out, z, path, t)
    kappas = canonical(kind, out, z, path, t).kappa
    for i in range(len(values)):
        one = canonical(kind, out[i : i + 1], z[i : i + 1], path, t[i])
        torch.testing.assert_close(rows[0][i : i + 1], one.x0, atol=2e-5, rtol=2e-5)
        torch.testing.assert_close(rows[1][i : i + 1], one.eps, atol=2e-5, rtol=2e-5)
        torch.testing.assert_close(kappas[i], one.kappa, atol=0, rtol=1e-4)


def test_targets_have_the_published_signs():
    x0, eps = torch.full((1, 1, 1), 0.5), torch.full((1, 1, 1), -2.0)
    half = torch.tensor(0.25)
    assert target(Kind.VELOCITY, x0, eps, LinearFlow(noise_at=1), half).item() == pytest.approx(-2.5)  # e - x
    assert target(Kind.VELOCITY, x0, eps, LinearFlow(noise_at=0), half).item() == pytest.approx(2.5)  # x - e
    assert target(Kind.VELOCITY, x0, eps, VE(), half).item() == pytest.approx(-2.0)  # e
    assert target(Kind.SCORE, x0, eps, VE(), half).item() == pytest.approx(8.0)  # -e / sigma
    assert target(Kind.ENERGY, x0, eps, VE(), half).item() == pytest.approx(-8.0)
    path, t = VPDiscrete.make(), torch.tensor(50)
    v = path.alpha(t) * eps - path.sigma(t) * x0
    torch.testing.assert_close(target(Kind.V, x0, eps, path, t), v)
    torch.testing.assert_close(target(Kind.VELOCITY, x0, eps, path, t), v)


def test_flow_rows_of_the_table():
    z, u, t = torch.randn(2, 3, 1), torch.randn(2, 3, 1), torch.tensor(0.3)
    x0, eps = to_x0_eps(Kind.VELOCITY, u, z, LinearFlow(noise_at=1), t)
    torch.testing.assert_close(x0, z - 0.3 * u)
    torch.testing.assert_close(eps, z + 0.7 * u)
    x0, eps = to_x0_eps(Kind.VELOCITY, u, z, LinearFlow(noise_at=0), t)
    torch.testing.assert_close(x0, z + 0.7 * u)
    torch.testing.assert_close(eps, z - 0.3 * u)


@pytest.mark.parametrize("kind", [Kind.X0, Kind.V, Kind.VELOCITY])
def test_velocity_like_kinds_are_defined_at_pure_noise(kind):
    path, t = LinearFlow(noise_at=1), torch.tensor(1.0)
    x0, eps = pair()
    got_x0, got_eps = to_x0_eps(kind, target(kind, x0, eps, path, t), path.add_noise(x0, eps, t), path, t)
    torch.testing.assert_close(got_x0, x0)
    torch.testing.assert_close(got_eps, eps)


@pytest.mark.parametrize("kind", [Kind.EPS, Kind.SCORE, Kind.ENERGY])
def test_noise_like_kinds_are_refused_at_pure_noise(kind):
    z = torch.randn(1, 2, 2)
    with pytest.raises(IncompatibleNoiseLevel, match="says nothing about x0 where alpha = 0"):
        to_x0_eps(kind, z, z, LinearFlow(noise_at=1), torch.tensor(1.0))


@pytest.mark.parametrize("weights", [(0.3, 0.7), (1.4, -0.4)])
def test_weights_that_sum_to_one_compose_the_same_in_every_coordinate(weights):
    path, t = VPDiscrete.make(), torch.tensor(60)
    z = torch.randn(4, 3, 2, dtype=torch.float64)
    parents = [torch.randn_like(z), torch.randn_like(z)]  # epsilon outputs of two heads
    pairs = [to_x0_eps(Kind.EPS, p, z, path, t) for p in parents]
    want = sum(w * p for w, p in zip(weights, parents, strict=True))
    for kind in Kind:
        outs = [target(kind, x0, eps, path, t) for x0, eps in pairs]
        mixed = sum(w * o for w, o in zip(weights, outs, strict=True))
        torch.testing.assert_close(to_x0_eps(kind, mixed, z, path, t)[1], want)


def test_adding_two_scores_is_not_adding_two_clean_estimates():
    path, t = VE(), torch.tensor(0.7, dtype=torch.float64)
    y = torch.randn(4, 3, 2, dtype=torch.float64)
    x1, x2 = torch.randn_like(y), torch.randn_like(y)
    scores = [target(Kind.SCORE, x, (y - x) / 0.7, path, t) for x in (x1, x2)]
    x0, eps = to_x0_eps(Kind.SCORE, scores[0] + scores[1], y, path, t)
    torch.testing.assert_close(x0, x1 + x2 - y, atol=1e-6, rtol=0)
    torch.testing.assert_close(eps, (y - x1) / 0.7 + (y - x2) / 0.7, atol=1e-6, rtol=0)


def test_shared_coordinates_invert():
    path, t = VPDiscrete.make(), torch.tensor(70)
    x0, eps = pair(dtype=torch.float64)
    y = to_edm_coords(path.add_noise(x0, eps, t), path, t)
    torch.testing.assert_close(y, x0 + path.kappa(t) * eps, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(to_model_coords(y, path, t), path.add_noise(x0, eps, t), atol=1e-6, rtol=1e-6)


def test_a_state_is_carried_between_paths_at_matched_noise():
    vp, flow = VPDiscrete.make(), LinearFlow(noise_at=1)
    x0, eps = pair(dtype=torch.float64)
    t = torch.tensor(83)
    s, gap = flow.t_of_kappa(vp.kappa(t).double())
    assert gap.item() < 1e-6
    z = vp.add_noise(x0, eps, t)
    torch.testing.assert_close(carry_state(z, vp, t, flow, s), flow.add_noise(x0, eps, s), atol=1e-5, rtol=1e-5)
    top = torch.tensor(1.0)  # alpha = 0 on the follower: the ratio of sigmas is still finite
    assert bool(carry_state(z, vp, torch.tensor(99), flow, top).isfinite().all())
