"""The energy nets: published counts, masks, independence of rows, second derivatives."""

from __future__ import annotations

import pytest
import torch

from robopolicy.core.errors import ConfigError
from robopolicy.nets.energy_transformer import (
    EnergyTransformer,
    ObservationTokens,
    PlainAttention,
    TransformerEnergy,
    UnetEnergy,
)
from robopolicy.nets.masks import condition_mask

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def small(**changes) -> TransformerEnergy:
    torch.manual_seed(0)
    return TransformerEnergy(3, 5, 8, 2, **{"n_layer": 2, "n_obs_layer": 2, "n_head": 2, "n_emb": 16, **changes}).eval()


def small_unet() -> UnetEnergy:
    torch.manual_seed(0)
    return UnetEnergy(3, 10, down_dims=(16, 32), kernel_size=3, n_groups=4, step_embed_dim=16).eval()


def test_published_counts():
    """O16: the author's training log, for observations of 181 numbers and 7 action channels."""
    with torch.device("meta"):
        observations, actions = ObservationTokens(181, 2), EnergyTransformer(7, 16, 2)
    assert sum(p.numel() for p in observations.parameters()) == 3_210_240
    assert sum(p.numel() for p in actions.parameters()) == 5_409_799
    assert sum(p.numel() for p in actions.parameters() if p.requires_grad) == 5_405_703


def test_action_steps_see_observations_up_to_their_own():
    """O15: row r sees frame c iff r >= c; the first action sees the older frame only."""
    assert condition_mask(4, 2, n_time=0).int().tolist() == [[1, 0], [1, 1], [1, 1], [1, 1]]
    assert torch.equal(small().actions.memory_mask, condition_mask(8, 2, n_time=0))
    attention = PlainAttention(16, 2, 0.0).eval()
    x, memory = torch.randn(1, 8, 16), torch.randn(1, 2, 16)
    other = memory.clone()
    other[:, 1] += 1
    mask = condition_mask(8, 2, n_time=0)
    moved = (attention(x, memory, mask) - attention(x, other, mask)).abs().amax(-1)[0]
    assert moved[0] == 0
    assert (moved[1:] > 1e-6).all()


def test_older_frames_do_not_see_newer_ones():
    net = small()
    cond = torch.randn(1, 2, 5)
    newer = cond.clone()
    newer[:, 1] += 1
    moved = (net.context(cond) - net.context(newer)).abs().amax(-1)[0]
    assert moved[0] == 0
    assert moved[1] > 1e-4


def test_plain_attention_is_torchs_attention():
    """Without the norms of queries and keys it is scaled dot-product attention."""
    torch.manual_seed(0)
    attention = PlainAttention(16, 2, 0.0).eval()
    attention.query_norm = attention.key_norm = torch.nn.Identity()
    x, mask = torch.randn(3, 6, 16), torch.ones(6, 6, dtype=torch.bool).tril()
    assert torch.allclose(attention(x, x, mask), super(PlainAttention, attention).forward(x, x, mask), atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("make", [small, small_unet])
def test_second_derivatives(make, device):
    """O23, and in float64 equal to finite differences of the first."""
    net = make().double().to(device)
    cond = torch.randn(2, 2, 5, dtype=torch.float64, device=device)
    context = net.context(cond if net.cond_kind == "tokens" else cond.flatten(1))
    x = torch.randn(2, 8, 3, dtype=torch.float64, device=device, requires_grad=True)
    direction = torch.randn_like(x)

    def slope(at: torch.Tensor, graph: bool) -> torch.Tensor:
        return torch.autograd.grad(net.energy(at, context).sum(), at, create_graph=graph)[0]

    (second,) = torch.autograd.grad((slope(x, True) * direction).sum(), x)
    step = 1e-5
    ahead, behind = ((x.detach() + s * step * direction).requires_grad_() for s in (1, -1))
    numeric = (slope(ahead, False) - slope(behind, False)) / (2 * step)
    assert torch.allclose(second, numeric, rtol=1e-5, atol=1e-9)
    assert second.abs().max() > 1e-7


@pytest.mark.parametrize("make", [small, small_unet])
def test_energies_of_a_batch_are_those_of_its_rows(make):
    net = make()
    cond = torch.randn(9, 2, 5)
    context = net.context(cond if net.cond_kind == "tokens" else cond.flatten(1))
    x = torch.randn(9, 8, 3)
    together = net.energy(x, context)
    assert together.shape == (9,)
    alone = torch.cat([net.energy(x[i : i + 1], context[i : i + 1]) for i in range(9)])
    assert torch.allclose(together, alone, atol=1e-6)
    assert together.std() > 1e-4


def test_the_offset_is_a_constant():
    """O19, first half: the output bias moves energies and no gradient."""
    net = small()
    context, x = net.context(torch.randn(2, 2, 5)), torch.randn(2, 8, 3, requires_grad=True)
    before = net.energy(x, context)
    with torch.no_grad():
        net.offset.add_(0.5)
    after = net.energy(x, context)
    assert torch.allclose(after - before, torch.full((2,), 0.5), atol=1e-6)
    slopes = [torch.autograd.grad(e.sum(), x)[0] for e in (before, after)]
    assert torch.allclose(*slopes, atol=1e-9)


def test_wrong_shapes_are_named():
    net = small()
    with pytest.raises(ConfigError, match="observation tokens"):
        net.context(torch.randn(2, 3, 5))
    with pytest.raises(ConfigError, match="energy transformer"):
        net.energy(torch.randn(2, 8, 4), torch.randn(2, 2, 16))
