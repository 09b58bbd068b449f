"""Latent maps: unit laws (D11), the base's own law at full rank, tapes that belong to episodes, refusals."""

from __future__ import annotations

import pytest
import torch

from robopolicy.core.errors import ConfigError
from robopolicy.wrappers.latent_maps import LatentMap, curve_basis
from robopolicy.wrappers.steer_config import LatentMapConfig

STEPS, WIDTH = 16, 3


def made(kind: str = "full", shape: tuple[int, ...] = (STEPS, WIDTH), **options) -> LatentMap:
    return LatentMap(LatentMapConfig(kind=kind, **options), shape)


def drawn(latent_map: LatentMap, rows: int = 40_000) -> torch.Tensor:
    return latent_map(torch.randn(rows, latent_map.dim, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("curves", ["dct", "linear"])
@pytest.mark.parametrize("rank", [1, 2, 5, 16])
def test_d11_a_basis_keeps_every_number_s_unit_variance(curves, rank):
    basis = curve_basis(STEPS, rank, curves)
    torch.testing.assert_close(basis.square().sum(1), torch.ones(STEPS))  # exact: the variance is this sum
    latent = drawn(made("basis", rank=rank, curves=curves))
    assert latent.shape[1:] == (STEPS, WIDTH)
    # Variance of 40 000 squares: sqrt(2 / 40 000) = 0.007, four of them.
    torch.testing.assert_close(latent.var(0), torch.ones(STEPS, WIDTH), atol=0.03, rtol=0)
    assert float(latent.mean(0).abs().max()) < 0.02


def test_d11_a_repeated_latent_has_unit_variance_and_correlation_one():
    latent = drawn(made("repeat"))
    torch.testing.assert_close(latent.var(0), torch.ones(STEPS, WIDTH), atol=0.03, rtol=0)
    for channel in range(WIDTH):
        correlation = torch.corrcoef(latent[..., channel].T)
        torch.testing.assert_close(correlation, torch.ones(STEPS, STEPS), atol=1e-5, rtol=0)
    assert float(torch.corrcoef(latent[:, 0].T)[0, 1].abs()) < 0.02  # channels stay independent


@pytest.mark.parametrize("curves", ["dct", "linear"])
def test_at_full_rank_a_basis_is_the_independent_law_again(curves):
    basis = curve_basis(STEPS, STEPS, curves).double()
    torch.testing.assert_close(basis @ basis.T, torch.eye(STEPS, dtype=torch.float64), atol=1e-6, rtol=0)
    # At a lower rank neighbours go together: the map does change the joint law.
    low = curve_basis(STEPS, 3, curves)
    assert float((low @ low.T)[0, 1]) > 0.5


def test_basis_of_one_curve_is_repeat_and_full_is_the_latent():
    numbers = torch.randn(2, WIDTH)
    torch.testing.assert_close(made("basis", rank=1)(numbers), made("repeat")(numbers))
    whole = torch.randn(2, STEPS * WIDTH)
    assert torch.equal(made()(whole), whole.view(2, STEPS, WIDTH))


def test_an_additive_latent_is_the_episode_s_tape_plus_one_offset():
    latent_map = made("additive")
    keys = [(5, 0, 0), (5, 0, 7), (5, 1, 0), (6, 0, 0), (5, 0, 0, 3)]
    tape = latent_map.tape_of(keys)
    assert torch.equal(tape[0], tape[1])  # another chunk, and a candidate, of the same episode
    assert torch.equal(tape[0], tape[4])
    assert not torch.equal(tape[0], tape[2])
    assert not torch.equal(tape[0], tape[3])
    offset = torch.randn(5, WIDTH)
    torch.testing.assert_close(latent_map(offset, tape) - tape, offset[:, None].expand(-1, STEPS, -1))
    assert not latent_map.prior(offset).any()  # the base acts with its tape alone
    assert torch.equal(made("repeat").prior(offset), offset)
    many = latent_map.draw_tape(4000, torch.Generator().manual_seed(0))
    assert abs(float(many.std()) - 1) < 0.01


def test_auto_is_full_while_an_actor_can_choose_all_of_it():
    assert made("auto", (16, 16)).kind == "full"
    big = made("auto", (50, 32))
    assert (big.kind, big.rank, big.dim) == ("basis", 8, 256)
    assert made("auto", (10, 400)).dim == 400


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "basis", "rank": 17}, "at most 16"),
        ({"kind": "full", "rank": 2}, "use kind: basis"),
        ({"kind": "repeat", "shape": (5,)}, "use full"),
    ],
)
def test_maps_that_cannot_be_say_what_to_change(options, message):
    with pytest.raises(ConfigError, match=message):
        made(**options)


def test_an_additive_map_without_a_tape_is_refused():
    with pytest.raises(ConfigError, match="tape"):
        made("additive")(torch.zeros(1, WIDTH))
