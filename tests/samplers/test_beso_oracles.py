"""Every sampler on the variance-exploding path against closed forms and published numbers (spec of BESO, 6 and 10)."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robopolicy.core.errors import ConfigError
from robopolicy.core.policy import Prediction
from robopolicy.paths import VE, Kind, LinearFlow, VPDiscrete, canonical
from robopolicy.paths.grids import noise_grid
from robopolicy.samplers import make_sampler
from robopolicy.testing.teachers import GaussianTeacher, MixtureTeacher

MEAN, STD, START = 0.3, 0.2, 1.7
PATH = VE(0.005, 1.0, 5.0)
TEACHER = GaussianTeacher(PATH, MEAN, STD)
QUERIES = {
    "euler": 3, "ddim": 3, "ancestral": 3, "dpmpp_2m": 3, "lms": 3, "heun": 5, "dpm2": 5, "dpmpp_2s": 5, "ddpm": 3,
}  # fmt: skip
DETERMINISTIC = ["euler", "ddim", "heun", "dpm2", "dpmpp_2m", "dpmpp_2s", "lms"]


def levels(*sigmas: float) -> Tensor:
    return torch.tensor(sigmas, dtype=torch.float64)


def grid(n: int, spacing: str = "exponential") -> Tensor:
    return torch.from_numpy(noise_grid(0.005, 1.0, n, spacing, 5.0))


def solve(name: str, times: Tensor, start: float = START, teacher=TEACHER, **options) -> float:
    z = torch.full((1, 1, 1), start, dtype=torch.float64)
    return make_sampler(name, clip=None, **options)(teacher, PATH, times, z).item()


def states(name: str, times: Tensor, start: float = START, **options) -> list[float]:
    """The states at which a sampler asks, from its start."""
    seen: list[float] = []

    def denoise(z: Tensor, t: Tensor) -> Prediction:
        seen.append(z.item())
        return TEACHER(z, t)

    z = torch.full((1, 1, 1), start, dtype=torch.float64)
    tape = torch.zeros(1, len(times) - 1, 1, 1, dtype=torch.float64)
    sampler = make_sampler(name, clip=None, **options)
    sampler(denoise, PATH, times, z, tape if sampler.stochastic else None)
    return seen


def exact(start: float, before: float, after: float) -> float:
    return MEAN + (start - MEAN) * math.sqrt((STD**2 + after**2) / (STD**2 + before**2))


# ------------------------------------------------------------------------------------------ one step (10.2, 6.2)

STEPS = [
    ("euler", 1, 1.026923), ("ddim", 1, 1.026923), ("heun", 2, 1.050133), ("dpm2", 2, 1.041526),
    ("dpmpp_2s", 2, 1.037249), ("ancestral", 1, 0.690385),
]  # fmt: skip


@pytest.mark.parametrize(("name", "at", "value"), STEPS)
def test_one_step_from_one_to_a_half(name, at, value):
    """The state at the level after: two-query samplers ask there on their third query (Heun: after correcting)."""
    assert states(name, levels(1.0, 0.5))[at] == pytest.approx(value, abs=1e-6)


def test_the_second_step_of_the_multistep_solver():
    assert states("dpmpp_2m", levels(1.0, 0.5, 0.25))[2] == pytest.approx(0.725199, abs=1e-6)
    assert exact(START, 1.0, 0.25) == pytest.approx(0.739515, abs=1e-6)
    assert exact(START, 1.0, 0.5) == pytest.approx(1.039282, abs=1e-6)


@pytest.mark.parametrize(
    ("before", "after", "kept", "fresh"),
    [(1.0, 0.5, 0.25, 0.4330127), (0.5, 0.1, 0.02, 0.0979796), (1.0, 0.0707107, 0.005, 0.0705337)],
)
def test_ancestral_split(before, after, kept, fresh):
    x0, z, noise = (c[0] for c in make_sampler("ancestral", clip=None).coefficients(two_levels(before, after)))
    assert [z * before, noise] == pytest.approx([kept, fresh], abs=1e-7)
    assert x0 == pytest.approx(1 - z)


def two_levels(before: float, after: float):
    import numpy as np

    from robopolicy.samplers.base import Levels

    sigma = np.array([before, after])
    return Levels(np.ones(2), sigma, sigma)


# -------------------------------------------------------------------------------------------- full solves (10.3)

EXPONENTIAL = {
    "euler": (0.43356176, 0.49947115, 0.53824489, 0.55668801, 0.5656631, 0.57008998),
    "ddim": (0.43356176, 0.49947115, 0.53824489, 0.55668801, 0.5656631, 0.57008998),
    "heun": (0.92849316, 0.65045033, 0.58715029, 0.57711196, 0.57508119, 0.57462175),
    "dpm2": (0.76700999, 0.60992543, 0.58078642, 0.57582145),
    "dpmpp_2m": (0.47007309, 0.57139699, 0.57833998, 0.5755403, 0.57473977, 0.57454167),
    "lms": (0.43618664, 0.51374141, 0.56060217, 0.57261391),
}
OTHER = [
    ("karras", "euler", (0.46508934, 0.50775757, 0.54247449)),
    ("karras", "heun", (0.7842818, 0.61702263, 0.58213676)),
    ("karras", "dpmpp_2m", (0.55284499, 0.60494968, 0.58547497)),
    ("linear", "euler", (0.40607293,)),
    ("linear", "heun", (0.72759158,)),
    ("linear", "dpmpp_2m", (0.55859439,)),
]
COUNTS = (3, 5, 10, 20, 40, 80)


@pytest.mark.parametrize("name", EXPONENTIAL)
def test_full_solves_on_the_exponential_grid(name):
    found = [solve(name, grid(n)) for n, _ in zip(COUNTS, EXPONENTIAL[name], strict=False)]
    assert found == pytest.approx(EXPONENTIAL[name], abs=1e-8)


@pytest.mark.parametrize(("spacing", "name", "values"), OTHER)
def test_full_solves_on_other_grids(spacing, name, values):
    found = [solve(name, grid(n, spacing)) for n, _ in zip(COUNTS, values, strict=False)]
    assert found == pytest.approx(values, abs=1e-8)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_all_solvers_agree_in_the_limit(name):
    """The last step, from 0.005 to the clean level, is no step of the ODE: it alone is off by about 1e-4."""
    assert exact(START, 1.0, 0.0) == pytest.approx(0.57456259, abs=1e-8)
    tolerance = 8e-4 if name in ("euler", "ddim") else 2e-4
    assert solve(name, grid(640)) == pytest.approx(0.57456259, abs=tolerance)


@pytest.mark.parametrize(("name", "least"), [("dpm2", 1.9), ("dpmpp_2s", 1.9), ("lms", 1.9)])
def test_order_of_convergence_between_fixed_levels(name, least):
    """The multistep solver begins with Euler's step, which bounds it by 2 here whatever its own order."""

    def error(n: int) -> float:
        times = torch.logspace(0, -1, n + 1, dtype=torch.float64)
        # The last state asked about before the clean level is the solution at 0.1.
        return abs(states(name, times)[-1] - exact(START, 1.0, 0.1))

    slope = math.log(error(20) / error(80)) / math.log(4)
    assert slope > least


# -------------------------------------------------------------------------------------------------- moments (10.4)

MOMENTS = [
    ("ancestral", 3, 0.288462, 0.073722), ("ancestral", 5, None, 0.118636), ("ancestral", 10, None, 0.153202),
    ("ancestral", 50, None, 0.189466), ("ancestral", 500, None, 0.198734),
    ("euler", 3, 0.271380, 0.095401), ("euler", 5, 0.257256, 0.142479), ("euler", 10, 0.248948, 0.170175),
    ("euler", 50, 0.242692, 0.191028),
]  # fmt: skip


@pytest.mark.parametrize(("name", "n", "mean", "std"), MOMENTS)
def test_moments_from_unit_noise(affine, name, n, mean, std):
    parts = affine(make_sampler(name, clip=None), TEACHER, PATH, grid(n))
    if mean is not None:
        assert parts[0].item() == pytest.approx(mean, abs=1e-6)
    assert parts[1:].norm().item() == pytest.approx(std, abs=1e-6)


def test_the_low_start_biases_the_mean_and_the_true_marginal_does_not(affine):
    mean, std = affine(make_sampler("heun", clip=None), TEACHER, PATH, grid(400)).tolist()
    assert (mean, std) == pytest.approx((0.241165, 0.196116), abs=2e-4)
    matched = VE(0.005, 1.0, 5.0, data_std=STD)
    offset, slope = affine(make_sampler("heun", clip=None), TEACHER, matched, grid(400)).tolist()
    shifted = offset + slope * MEAN / matched.prior_std  # a start around the mean of the data
    assert (shifted, slope) == pytest.approx((MEAN, STD), abs=2e-4)


# --------------------------------------------------------------------------------------------------- mixture (10.5)

MODES = [(0.3, -0.6, 0.05), (0.7, 0.5, 0.1)]
STARTS = (-1.5, -0.5, 0.0, 0.5, 1.5)


def two_modes(z: Tensor, t: Tensor) -> Prediction:
    total = [s**2 + float(t) ** 2 for _, _, s in MODES]
    logits = [math.log(w) - (z - m) ** 2 / (2 * v) - math.log(v) / 2 for (w, m, _), v in zip(MODES, total, strict=True)]
    share = torch.stack(logits).softmax(0)
    means = [m + s**2 / v * (z - m) for (_, m, s), v in zip(MODES, total, strict=True)]
    return canonical(Kind.X0, (share * torch.stack(means)).sum(0), z, PATH, t)


def ends(name: str, times: Tensor, starts: Tensor) -> Tensor:
    out: Tensor = make_sampler(name, clip=None)(two_modes, PATH, times, starts.reshape(-1, 1, 1)).flatten()
    return out


FINE = torch.from_numpy(noise_grid(1e-4, 1.0, 1500, "karras", 5.0))


@pytest.mark.parametrize(
    ("name", "times", "want", "tolerance"),
    [
        ("heun", FINE, (-0.635524, -0.532096, 0.412860, 0.485342, 0.596384), 2e-5),
        ("euler", grid(3), (-0.50175, 0.15731, 0.27015, 0.36629, 0.50374), 6e-6),
        ("dpmpp_2m", grid(3), (-0.62238, 0.21649, 0.31587, 0.40314, 0.53797), 6e-6),
    ],
)
def test_mixture_endpoints(name, times, want, tolerance):
    found = ends(name, times, torch.tensor(STARTS, dtype=torch.float64))
    assert found.tolist() == pytest.approx(want, abs=tolerance)


def test_basins_of_the_mixture():
    starts = torch.linspace(-1.0, 0.0, 401, dtype=torch.float64)
    left = ends("heun", grid(200), starts) < -0.1
    edge = float(starts[int(left.sum())])
    assert bool((left[:-1] >= left[1:]).all())
    assert edge == pytest.approx(-0.41, abs=0.005)
    assert 0.5 * math.erfc(-edge / math.sqrt(2)) == pytest.approx(0.3409, abs=2e-3)  # the truth is 0.3


# ------------------------------------------------------------------------------------- identities, cost, between


def mixture() -> MixtureTeacher:
    return MixtureTeacher(PATH, (-0.6, 0.5), (0.3, 0.7), 0.1)


def run(name: str, times: Tensor, tape: Tensor | None = None, path=PATH, **options) -> Tensor:
    z = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64).reshape(7, 1, 1)
    out: Tensor = make_sampler(name, **{"clip": None, **options})(mixture(), path, times, z, tape)
    return out


def test_samplers_that_are_the_same():
    times = grid(6)
    euler = run("euler", times)
    for other in (run("ddim", times), run("ancestral", times, eta=0.0), run("lms", times, order=1)):
        torch.testing.assert_close(other, euler, atol=1e-12, rtol=0)
    one = levels(0.4)  # straight into the clean level: nobody has a second look
    for name in DETERMINISTIC:
        torch.testing.assert_close(run(name, one), run("euler", one), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("name", "queries"), list(QUERIES.items()))
def test_cost_of_three_steps(name, queries):
    asked: list[float] = []

    def denoise(z: Tensor, t: Tensor) -> Prediction:
        asked.append(t.item())
        return TEACHER(z, t)

    sampler = make_sampler(name)
    sampler(denoise, PATH, grid(3), torch.zeros(1, 1, 1, dtype=torch.float64))
    assert len(asked) == queries == sampler.queries(3)
    assert set(asked) == set(sampler.asked(PATH, grid(3)).tolist())


@pytest.mark.parametrize("name", ["dpm2", "dpmpp_2s"])
def test_middles_are_geometric_means(name):
    assert make_sampler(name).asked(PATH, levels(1.0, 0.25, 0.04)).tolist() == pytest.approx(
        [1.0, 0.5, 0.25, 0.1, 0.04]
    )
    with pytest.raises(ConfigError, match="asks between the levels"):
        run(name, torch.tensor([90, 40]), path=VPDiscrete.make())


@pytest.mark.parametrize("name", ["dpm2", "dpmpp_2s", "lms"])
@pytest.mark.parametrize("noise_at", [0, 1])
def test_flows_are_solved_from_pure_noise(name, noise_at):
    path = LinearFlow(noise_at)
    teacher = GaussianTeacher(path, MEAN, STD)
    z = torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(2, 1, 1)
    times = torch.arange(300, 0, -1, dtype=torch.float64) / 300
    low, high = make_sampler(name, clip=None)(teacher, path, times if noise_at == 1 else 1 - times, z).flatten()
    assert (low.item(), (high - low).item()) == pytest.approx((MEAN, STD), abs=2e-3)


@pytest.mark.parametrize("name", ["dpm2", "dpmpp_2s", "lms"])
def test_new_samplers_clip_and_pass_gradients(name):
    z = torch.zeros(2, 3, 1, requires_grad=True)
    far = make_sampler(name, clip=0.25)(
        lambda z, t: canonical(Kind.X0, torch.full_like(z, 3.0), z, PATH, t), PATH, grid(4), z
    )
    torch.testing.assert_close(far, torch.full_like(far, 0.25), atol=1e-6, rtol=0)
    start = torch.ones(1, 1, 1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(make_sampler(name, clip=None)(TEACHER, PATH, grid(4), start).sum(), start)
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    step = make_sampler(name, clip=None)
    with torch.no_grad():
        want = step(TEACHER, PATH, grid(4), one) - step(TEACHER, PATH, grid(4), 0 * one)
    torch.testing.assert_close(slope, want)


@pytest.mark.parametrize("order", [0, 5, True])
def test_impossible_orders_are_refused(order):
    with pytest.raises(ConfigError, match="order must be"):
        make_sampler("lms", order=order)


# -------------------------------------------------------------------------------------------------------- churn


def test_churn_raises_the_level_and_adds_the_missing_noise():
    sampler = make_sampler("euler", clip=None, churn=0.6, churn_min=0.1)
    times = levels(1.0, 0.5, 0.05)
    raised = sampler.asked(PATH, times)
    assert raised.tolist() == pytest.approx([1.0, 0.5 * 1.2, 0.05])  # never above the first, not below churn_min
    noise = 0.7
    tape = torch.tensor([noise, 9.0], dtype=torch.float64).reshape(1, 2, 1, 1)
    z = torch.full((1, 1, 1), START, dtype=torch.float64)
    found = sampler(TEACHER, PATH, times, z, tape).item()

    def euler(x: float, before: float, after: float) -> float:
        clean = (STD**2 * x + before**2 * MEAN) / (STD**2 + before**2)
        return clean + (x - clean) * after / before

    x = euler(START, 1.0, 0.5) + math.sqrt(0.6**2 - 0.5**2) * noise
    assert found == pytest.approx(euler(euler(x, 0.6, 0.05), 0.05, 0.0), abs=1e-12)


@pytest.mark.parametrize("steps", [20, 200])
def test_churn_restores_spread_that_euler_loses(affine, steps):
    times = grid(steps)
    plain = affine(make_sampler("euler", clip=None), TEACHER, PATH, times)[1:].norm().item()
    noisy = affine(make_sampler("euler", clip=None, churn=5.0), TEACHER, PATH, times)[1:].norm().item()
    assert abs(noisy - STD) < abs(plain - STD) + 0.02
    assert noisy == pytest.approx(STD, abs=0.04)


def test_churn_is_refused_where_noise_cannot_be_raised():
    with pytest.raises(ConfigError, match="variance-exploding"):
        run("euler", torch.tensor([0.9, 0.4]), path=LinearFlow(1), churn=1.0)
    with pytest.raises(ConfigError, match="churn_min <= churn_max"):
        make_sampler("euler", churn=1.0, churn_min=2.0, churn_max=1.0)
    with pytest.raises(ConfigError, match="finite numbers"):
        make_sampler("euler", churn=-1.0)


# ------------------------------------------------------------------------------------------ parity with diffusers


def field(x: Tensor, sigma: float) -> Tensor:
    """A smooth stand-in for a trained noise estimate, a function of the level."""
    return torch.tanh(1.3 * x / math.sqrt(1 + sigma**2) + 0.3) * (0.9 - 0.1 * math.log(sigma))


def on_our_path(name: str, sigmas: Tensor, z: Tensor, **options) -> Tensor:
    path = VE(float(sigmas.min()) / 2, float(sigmas.max()) * 2)
    sampler = make_sampler(name, clip=None, **options)
    out: Tensor = sampler(lambda z, t: canonical(Kind.EPS, field(z, float(t)), z, path, t), path, sigmas, z)
    return out


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("n", [2, 3, 5, 10, 30])
@pytest.mark.parametrize("name", ["dpm2", "lms"])
def test_parity_with_diffusers(name, n):
    from diffusers import KDPM2DiscreteScheduler, LMSDiscreteScheduler

    z = 10 * torch.randn(20, 4, 2, generator=torch.Generator().manual_seed(0))
    kind: Callable = {"dpm2": KDPM2DiscreteScheduler, "lms": LMSDiscreteScheduler}[name]
    scheduler = kind(1000, timestep_spacing="linspace")
    scheduler.set_timesteps(n)
    sigmas = scheduler.sigmas[scheduler.sigmas > 0]
    if name == "dpm2":  # theirs lists levels twice, first for the predictor and then for the corrector
        middles = scheduler.sigmas_interpol
        queried = [float(sigmas[0])]
        for i in range(1, n):
            queried += [float(middles[2 * i - 1]), float(sigmas[2 * i])]
        sigmas = torch.cat([sigmas[:1], sigmas[1::2]])
    else:
        queried = sigmas.tolist()
    x = z
    for t, sigma in zip(scheduler.timesteps, queried, strict=False):
        x = scheduler.step(field(x, sigma), t, x).prev_sample
    torch.testing.assert_close(on_our_path(name, sigmas, z), x, atol=2e-4, rtol=2e-4)
