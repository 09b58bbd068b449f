"""Training densities of the noise level: quantiles, truncation, and the loss that no network can go below."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from robopolicy.core.errors import ConfigError
from robopolicy.paths.ve import VE
from robopolicy.policies.noise_densities import NoiseDensity
from robopolicy.policies.precondition import EDM

SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
QUANTILES = [
    (0.005, (0.1022, 0.2501, 0.4083, 0.6124, 0.8898), 0.442),
    (0.05, (0.1140, 0.2558, 0.4125, 0.6155, 0.8910), 0.447),
]
FLOORS = {0.005: (0.156441, 0.392462, 1.0, 1.527217), 0.05: (0.147265, 0.385240, 1.0, 1.533710)}
SPREADS = (0.1, 0.2, 0.5, 1.0)


def released(low: float, high: float = 1.0) -> NoiseDensity:
    """BESO's density for data of spread 0.5."""
    return NoiseDensity("loglogistic", math.log(0.5), 0.5, low, high)


def middles(n: int = 200_000) -> Tensor:
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


@pytest.mark.parametrize(("low", "quantiles", "mean"), QUANTILES)
def test_quantiles_and_mean_of_the_released_densities(low, quantiles, mean):
    density = released(low)
    found = density.quantile(torch.tensor(SHARES, dtype=torch.float64))
    assert found.tolist() == pytest.approx(quantiles, abs=6e-5)
    assert float(density.quantile(middles()).mean()) == pytest.approx(mean, abs=6e-4)


@pytest.mark.parametrize("kind", ["loglogistic", "lognormal"])
def test_draws_follow_the_quantiles_and_stay_in_the_range(kind):
    density = NoiseDensity(kind, -1.2, 1.2, 0.01, 3.0)
    drawn = density.draw(50_000, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert drawn.dtype == torch.float32
    assert float(drawn.min()) >= 0.01
    assert float(drawn.max()) <= 3.0
    for share in SHARES:
        below = float((drawn < density.quantile(torch.tensor(share, dtype=torch.float64))).float().mean())
        assert below == pytest.approx(share, abs=4 * (share * (1 - share) / 50_000) ** 0.5)
    ends = density.quantile(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert ends.tolist() == pytest.approx([0.01, 3.0], rel=1e-9)


def test_the_lognormal_is_normal_in_ln_sigma():
    wide = NoiseDensity("lognormal", -1.2, 1.2, 1e-9, 1e9)
    shares = torch.tensor([0.022750131948, 0.158655253931, 0.5, 0.841344746069], dtype=torch.float64)
    assert wide.quantile(shares).log().tolist() == pytest.approx([-3.6, -2.4, -1.2, 0.0], abs=1e-6)


@pytest.mark.parametrize(("low", "floors"), list(FLOORS.items()))
def test_irreducible_loss_by_integration(low, floors):
    """``s^2 (sigma^2 + sd^2) / (sd^2 (s^2 + sigma^2))`` averaged over the density, for data of spread s."""
    sigma = released(low).quantile(middles())
    for s, floor in zip(SPREADS, floors, strict=True):
        loss = s**2 * (sigma**2 + 0.25) / (0.25 * (s**2 + sigma**2))
        assert float(loss.mean()) == pytest.approx(floor, abs=2e-6)


def raw_loss(net, s: float, n: int, seed: int) -> Tensor:
    """Squared error of the raw network on data ``N(0, s^2)``, one number a draw."""
    rule, generator = EDM(VE(0.005, 1.0), 0.5), torch.Generator().manual_seed(seed)
    x0 = s * torch.randn(n, 1, 1, generator=generator)
    eps = torch.randn(n, 1, 1, generator=generator)
    t = released(0.005).draw(n, generator, torch.device("cpu"))
    z = rule.path.add_noise(x0, eps, t)
    return (net(rule.enter(z, t), rule.label(t)) - rule.target(x0, eps, z, t)).square().flatten()


@pytest.mark.parametrize(("s", "floor"), list(zip(SPREADS, FLOORS[0.005], strict=True)))
def test_the_best_network_has_the_irreducible_loss(s, floor):
    def best(x: Tensor, label: Tensor) -> Tensor:
        sigma = (4 * label).exp().reshape(-1, 1, 1)
        z, total = x * (sigma**2 + 0.25).sqrt(), sigma**2 + 0.25
        x0 = s**2 * z / (s**2 + sigma**2)
        return (x0 - 0.25 / total * z) / (0.5 * sigma / total.sqrt())

    losses = raw_loss(best, s, 200_000, seed=0)
    assert float(losses.mean()) == pytest.approx(floor, abs=4 * float(losses.std()) / 200_000**0.5)


def test_a_trained_network_comes_down_to_the_floor_and_stays_above():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(2, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 1))

    def net(x: Tensor, label: Tensor) -> Tensor:
        out: Tensor = layers(torch.stack([x.flatten(), label], dim=-1))
        return out.reshape(x.shape)

    def test_loss() -> float:
        with torch.no_grad():
            return float(raw_loss(net, 0.2, 100_000, seed=99).mean())

    optimizer = torch.optim.Adam(layers.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    losses = [test_loss()]
    for step in range(400):
        optimizer.zero_grad()
        raw_loss(net, 0.2, 1024, seed=step).mean().backward()
        optimizer.step()
        schedule.step()
    losses.append(test_loss())
    floor = FLOORS[0.005][1]
    assert losses[0] > floor + 0.2
    assert floor - 0.01 < losses[1] < floor + 0.02


@pytest.mark.parametrize(
    "options", [("uniform", 0.0, 1.0, 0.1, 1.0), ("lognormal", 0.0, 0.0, 0.1, 1.0), ("lognormal", 0.0, 1.0, 1.0, 0.1)]
)
def test_densities_that_are_none_are_refused(options):
    with pytest.raises(ConfigError, match="noise density"):
        NoiseDensity(*options)
