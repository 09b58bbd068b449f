"""What every sampler promises: purity, tapes, clipping, cached plans, clear refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robopolicy.core.errors import ConfigError
from robopolicy.core.policy import Prediction
from robopolicy.paths import VE, Kind, LinearFlow, PerChannel, VPDiscrete, canonical
from robopolicy.samplers import SAMPLERS, Sampler, make_sampler
from robopolicy.testing.teachers import GaussianTeacher, MixtureTeacher

PATH = VPDiscrete.make()
NAMES = ["ancestral", "ddim", "ddpm", "dpmpp_2m", "euler", "heun", "lms"]
SPACINGS = [(PATH, "trailing"), (VE(0.01, 10), "karras"), (LinearFlow(1), "linear"), (LinearFlow(0), "linear")]


def mixture(path) -> MixtureTeacher:
    return MixtureTeacher(path, (-0.9, 0.7), (0.4, 0.6), 0.3)


def inputs(sampler: Sampler, steps: int, n: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n, 4, 3, generator=generator)
    return z, torch.randn(n, sampler.tape_len(steps), 4, 3, generator=generator)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("path", "spacing"), SPACINGS)
def test_pure_in_its_arguments_and_blind_to_row_order(name, path, spacing):
    sampler, times = make_sampler(name), path.grid(6, spacing)
    z, tape = inputs(sampler, 6)
    before = z.clone(), tape.clone()
    out = sampler(mixture(path), path, times, z, tape)
    assert torch.equal(out, sampler(mixture(path), path, times, z, tape))
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = sampler(mixture(path), path, times, z[order], tape[order])
    torch.testing.assert_close(shuffled, out[order], atol=1e-6, rtol=0)  # exp rounds differently at a tensor's tail
    torch.testing.assert_close(out[1:2], sampler(mixture(path), path, times, z[1:2], tape[1:2]))
    assert torch.equal(z, before[0])
    assert torch.equal(tape, before[1])


@pytest.mark.parametrize("name", NAMES)
def test_stochastic_samplers_read_the_whole_tape_and_others_none(name):
    sampler, times = make_sampler(name), PATH.grid(6, "trailing")
    z, tape = inputs(sampler, 6)
    assert sampler.stochastic == (name in ("ddpm", "ancestral"))
    assert sampler.tape_len(6) == (5 if sampler.stochastic else 0)
    base = sampler(mixture(PATH), PATH, times, z, tape)
    for i in range(sampler.tape_len(6)):
        other = tape.clone()
        other[:, i] += 0.5
        assert not torch.equal(base, sampler(mixture(PATH), PATH, times, z, other))


@pytest.mark.parametrize("name", ["ddpm", "ancestral"])
def test_without_a_tape_noise_is_fresh(name):
    sampler, times = make_sampler(name), PATH.grid(6, "trailing")
    z, _ = inputs(sampler, 6)
    torch.manual_seed(1)
    first, second = (sampler(mixture(PATH), PATH, times, z) for _ in range(2))
    torch.manual_seed(1)
    assert not torch.equal(first, second)
    assert torch.equal(first, sampler(mixture(PATH), PATH, times, z))


@pytest.mark.parametrize("name", NAMES)
def test_clean_estimates_are_clipped_by_the_sampler(name):
    """The network's estimate of 3 is used as the bound; without clipping it is used as it is."""

    def far(z: Tensor, t: Tensor) -> Prediction:
        return canonical(Kind.X0, torch.full_like(z, 3.0), z, PATH, t)

    z, tape = inputs(make_sampler(name), 5)
    for clip, want in ((1.0, 1.0), (0.25, 0.25), (None, 3.0)):
        out = make_sampler(name, clip=clip)(far, PATH, PATH.grid(5, "trailing"), z, tape)
        if name == "ddim" and clip is not None:
            continue  # keeps the network's direction, so it does not end at the bound
        torch.testing.assert_close(out, torch.full_like(out, want), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_denoiser_is_asked_at_the_grid_times_in_order(name):
    asked: list[Tensor] = []

    def denoise(z: Tensor, t: Tensor) -> Prediction:
        asked.append(t)
        return mixture(PATH)(z, t)

    times = PATH.grid(5, "trailing")
    make_sampler(name)(denoise, PATH, times, torch.randn(2, 3, 1))
    grid = times.tolist()
    want = [grid[0]] + [t for t in grid[1:] for _ in range(2)] if name == "heun" else grid
    assert [int(t) for t in asked] == want
    assert all(t.ndim == 0 and t.is_cpu and t.dtype == torch.int64 for t in asked)


@pytest.mark.parametrize("name", NAMES)
def test_plans_are_cached_per_path_and_grid(name):
    sampler, z = make_sampler(name), torch.zeros(1, 2, 1)
    plan = sampler.plan(PATH, PATH.grid(7, "trailing"), z)
    assert sampler.plan(PATH, PATH.grid(7, "trailing"), z) is plan
    assert make_sampler(name).plan(PATH, PATH.grid(7, "trailing"), z) is plan
    assert sampler.plan(VPDiscrete.make(), PATH.grid(7, "trailing"), z) is not plan
    assert sampler.plan(PATH, PATH.grid(8, "trailing"), z) is not plan
    assert all(row[0].ndim == 0 and row[0].is_cpu for row in plan.rows)
    assert all(c is None or isinstance(c, float) for row in plan.rows for c in row[1:])


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_states_keep_exact_coefficients(name):
    """The coefficients of a bfloat16 state are not rounded to bfloat16 (eight bits)."""
    sampler, times = make_sampler(name), PATH.grid(7, "trailing")
    half = sampler.plan(PATH, times, torch.zeros(1, 2, 1, dtype=torch.bfloat16))
    full = sampler.plan(PATH, times, torch.zeros(1, 2, 1, dtype=torch.float64))
    assert [[None if c is None else float(c) for c in row] for row in half.rows] == [
        [None if c is None else float(c) for c in row] for row in full.rows
    ]
    z, tape = inputs(sampler, 7)
    out = sampler(mixture(PATH), PATH, times, z.bfloat16(), tape.bfloat16())
    assert out.dtype == torch.bfloat16
    assert bool(out.isfinite().all())


@pytest.mark.parametrize("name", NAMES)
def test_per_channel_path_equals_its_parts(name):
    parts = {(0, 2): VPDiscrete.make("scaled_linear"), (2, 3): PATH}
    both = PerChannel(parts)
    sampler, times = make_sampler(name), PATH.grid(9, "leading")
    z, tape = inputs(sampler, 9)
    out = sampler(mixture(both), both, times, z, tape)
    for (start, stop), path in parts.items():
        alone = sampler(mixture(path), path, times, z[..., start:stop], tape[..., start:stop])
        torch.testing.assert_close(out[..., start:stop], alone, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_the_latent(name):
    """An affine decoder has a constant slope; plans made under inference mode still work with autograd."""
    teacher, times = GaussianTeacher(PATH, 0.1, 0.5), PATH.grid(11, "trailing")
    sampler = make_sampler(name, clip=None)
    z, tape = inputs(sampler, 11)
    with torch.inference_mode():
        sampler(teacher, PATH, times, z, tape)
    z.requires_grad_()
    out = sampler(teacher, PATH, times, z, tape)
    (slope,) = torch.autograd.grad(out.sum(), z)
    moved = sampler(teacher, PATH, times, z.detach() + 0.5, tape)
    torch.testing.assert_close((moved - out.detach()) / 0.5, slope, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_clips_are_refused(name, clip):
    with pytest.raises(ConfigError, match="clip must be a finite number > 0, or None"):
        make_sampler(name, clip=clip)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("times", "message"),
    [
        (torch.tensor([]), "non-empty vector"),
        (torch.tensor(5), "non-empty vector"),
        (torch.tensor([5, 50]), "from noisy to clean"),
        (torch.tensor([50, 50]), "from noisy to clean"),
        (torch.tensor([100]), r"integers within 0\.\.99"),
        (torch.tensor([50, -1]), r"integers within 0\.\.99"),
    ],
)
def test_bad_times_are_refused(name, times, message):
    with pytest.raises(ConfigError, match=message):
        make_sampler(name)(mixture(PATH), PATH, times, torch.zeros(1, 2, 1))


@pytest.mark.parametrize("times", [[1.0, 0.0], [1.0, float("nan")], [float("inf"), 1.0]])
def test_clean_and_non_finite_levels_are_refused(times):
    path = VE()
    with pytest.raises(ConfigError, match="finite and noisier than the clean level"):
        make_sampler("euler")(mixture(path), path, torch.tensor(times), torch.zeros(1, 2, 1))


@pytest.mark.parametrize("name", NAMES)
def test_wrong_tapes_are_refused(name):
    sampler, times = make_sampler(name), PATH.grid(6, "trailing")
    wrong = torch.zeros(2, sampler.tape_len(6) + 1, 4, 3)
    with pytest.raises(ConfigError, match=r"expected a tape of shape \(2, [05], 4, 3\)"):
        sampler(mixture(PATH), PATH, times, torch.zeros(2, 4, 3), wrong)


def test_registry_names_and_refusals():
    elsewhere = ["dpm2", "dpmpp_2s", "midpoint", "renoise", "rk4", "trapezoid"]  # tested in files of their own
    assert list(SAMPLERS) == sorted([*NAMES, *elsewhere])
    with pytest.raises(ConfigError, match="unknown sampler 'eular'; did you mean 'euler'"):
        make_sampler("eular")
    with pytest.raises(ConfigError, match="sampler 'euler' does not take these options"):
        make_sampler("euler", eta=0.5)
