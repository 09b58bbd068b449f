"""Time grids against published tables and the diffusers schedulers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from robopolicy.core.errors import ConfigError
from robopolicy.paths import VE, LinearFlow, VPDiscrete
from robopolicy.paths.grids import discrete_grid, noise_grid


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_discrete_grids_equal_diffusers_for_every_step_count(spacing):
    scheduler = DDIMScheduler(100, timestep_spacing=spacing, steps_offset=0)
    for n in range(1, 101):
        if (spacing, n) == ("linspace", 1):
            continue  # there it starts at t = 0, the clean end; ours starts at the noisy end
        scheduler.set_timesteps(n)
        theirs = scheduler.timesteps.numpy()
        assert len(theirs) == n or (spacing == "trailing" and theirs[n:].tolist() == [-1])  # a stray entry by rounding
        np.testing.assert_array_equal(discrete_grid(100, n, spacing), theirs[:n], err_msg=str(n))


@pytest.mark.parametrize("num_train_steps", [1, 7, 20, 100, 1000])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_discrete_grids_descend_within_the_schedule(num_train_steps, spacing):
    for n in range(1, min(num_train_steps, 120) + 1):
        times = discrete_grid(num_train_steps, n, spacing)
        assert len(times) == n
        assert (np.diff(times) < 0).all()
        assert times[-1] >= 0
        assert times[0] <= num_train_steps - 1
        if spacing != "leading":
            assert times[0] == num_train_steps - 1


def test_leading_examples():
    assert discrete_grid(100, 16, "leading").tolist() == list(range(90, -1, -6))
    assert discrete_grid(100, 10, "leading").tolist() == list(range(90, -1, -10))
    assert discrete_grid(100, 8, "leading").tolist() == list(range(84, -1, -12))


def test_one_linspace_step_starts_at_pure_noise():
    assert discrete_grid(100, 1, "linspace").tolist() == [99]


KARRAS_10 = [80, 42.415, 21.109, 9.7232, 4.0661, 1.5017, 0.46998, 0.11664, 0.02044, 0.002]
NOISE_TABLE = [
    (0.002, 80, 10, "karras", 7, KARRAS_10),
    (0.002, 80, 5, "karras", 7, [80, 17.5278, 2.51522, 0.169753, 0.002]),
    (0.005, 1, 3, "exponential", 5, [1, 0.0707107, 0.005]),
    (0.005, 1, 3, "linear", 5, [1, 0.5025, 0.005]),
    (0.005, 1, 3, "karras", 5, [1, 0.138356, 0.005]),
    (0.005, 1, 5, "exponential", 5, [1, 0.265915, 0.0707107, 0.018803, 0.005]),
    (0.005, 1, 5, "karras", 5, [1, 0.409922, 0.138356, 0.0344786, 0.005]),
    (0.05, 1, 3, "exponential", 5, [1, 0.223607, 0.05]),
    (0.05, 1, 3, "linear", 5, [1, 0.525, 0.05]),
    (0.05, 1, 3, "karras", 5, [1, 0.278933, 0.05]),
    (0.1, 1, 3, "exponential", 5, [1, 0.316228, 0.1]),
    (0.1, 1, 3, "linear", 5, [1, 0.55, 0.1]),
    (0.1, 1, 3, "karras", 5, [1, 0.360631, 0.1]),
]


@pytest.mark.parametrize(("low", "high", "n", "spacing", "rho", "want"), NOISE_TABLE)
def test_noise_grids_match_the_tables(low, high, n, spacing, rho, want):
    np.testing.assert_allclose(noise_grid(low, high, n, spacing, rho), want, rtol=3e-4)  # five printed digits
    np.testing.assert_allclose(VE(low, high, rho).grid(n, spacing).numpy(), want, rtol=3e-4)


def test_edm_18_step_grid_ends():
    grid = noise_grid(0.002, 80, 18, "karras", 7)
    np.testing.assert_allclose(grid[:3], [80, 57.586, 40.7856], rtol=1e-5)
    np.testing.assert_allclose(grid[-3:], [0.0229345, 0.00752802, 0.002], rtol=1e-5)


@pytest.mark.parametrize("spacing", ["karras", "exponential", "linear"])
def test_one_noise_step_visits_the_noisiest_level(spacing):
    assert noise_grid(0.002, 80, 1, spacing, 7) == pytest.approx([80])


def test_flow_grids_run_from_noise_to_data():
    want = torch.tensor([1.0, 0.75, 0.5, 0.25])
    torch.testing.assert_close(LinearFlow(noise_at=1).grid(4, "linear"), want)
    torch.testing.assert_close(LinearFlow(noise_at=0).grid(4, "linear"), 1 - want)


@pytest.mark.parametrize("steps", [0, -3, 2.5, True, None])
@pytest.mark.parametrize("path", [VPDiscrete.make(), VE(), LinearFlow()])
def test_bad_step_counts_are_refused(path, steps):
    spacing = {"VPDiscrete": "leading", "VE": "karras", "LinearFlow": "linear"}[type(path).__name__]
    with pytest.raises(ConfigError, match="integer >= 1"):
        path.grid(steps, spacing)


def test_more_steps_than_trained_are_refused():
    with pytest.raises(ConfigError, match="101 sampling steps asked of a schedule with 100 training steps"):
        VPDiscrete.make().grid(101, "leading")


@pytest.mark.parametrize("path", [VPDiscrete.make(), VE(), LinearFlow()])
def test_unknown_spacing_is_refused_with_the_known_ones(path):
    with pytest.raises(ConfigError, match=r"unknown spacing 'trialing': expected one of .*"):
        path.grid(4, "trialing")
