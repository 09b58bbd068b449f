"""Networks of 3D Diffuser Actor: published sizes, symmetries, the zero start, text, and what may be cached."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from robopolicy.nets.diffuser_actor import ActorSizes, PoseDenoiser, SceneReader, SceneTokens, part_counts

TINY = ActorSizes(dim=48, num_history=2, history_layers=1, cross_layers=1, self_layers=2, branch_layers=1)
TEXT = dataclasses.replace(TINY, text_dim=5, text_in_blocks=True)


def noisy(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Double precision, evaluation mode, and no weight at the zero it started from."""
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=generator)
    return module.double().eval()


def make(sizes: ActorSizes, train_start: bool = False) -> tuple[SceneReader, PoseDenoiser]:
    torch.manual_seed(1)
    pair = SceneReader(sizes), PoseDenoiser(sizes)
    return tuple(m.double().eval() if train_start else noisy(m) for m in pair)  # type: ignore[return-value]


def scene_of(sizes: ActorSizes, batch: int = 3, points: int = 7, seed: int = 2) -> SceneTokens:
    g = torch.Generator().manual_seed(seed)
    text = torch.randn(batch, 4, sizes.dim, generator=g, dtype=torch.float64) if sizes.text_dim else None
    return SceneTokens(
        tokens=torch.randn(batch, points, sizes.dim, generator=g, dtype=torch.float64),
        positions=torch.rand(batch, points, 3, generator=g, dtype=torch.float64) * 2 - 1,
        history=torch.randn(batch, sizes.dim, generator=g, dtype=torch.float64),
        subset=torch.tensor([[0, 3, 5]]).expand(batch, -1),
        valid=torch.ones(batch, points, dtype=torch.bool),
        text=text,
        text_mask=None if text is None else torch.tensor([[True, True, True, False]]).expand(batch, -1),
    )


def poses(batch: int = 3, length: int = 4) -> Tensor:
    return torch.randn(batch, length, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def outputs(net: PoseDenoiser, x: Tensor, scene: SceneTokens, t: int = 10) -> Tensor:
    with torch.no_grad():
        noise, logit = net(x, torch.tensor(t), scene)
    return torch.cat((noise, logit.unsqueeze(-1)), -1)


def rows(scene: SceneTokens, keep: slice) -> SceneTokens:
    return SceneTokens(*(None if part is None else part[keep] for part in scene))


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


# ------------------------------------------------------------------------------------------------ published sizes

FPN = {120: 1_117_680, 192: 2_410_368}
COUNTS = [
    ((120, 3, False), (348_720, 262_800, 174_360, 291_360, 582_720, 291_360, 291_360), 3_584_290),
    ((192, 3, False), (889_728, 669_312, 444_864, 742_656, 1_485_312, 742_656, 742_656), 8_637_898),
    ((192, 3, True), (889_728, 669_312, 444_864, 742_656, 2_153_472, 965_376, 965_376), 9_751_498),
    ((192, 1, True), None, 9_677_386),
]


@pytest.mark.parametrize(("shape", "parts", "total"), COUNTS)
def test_parameter_counts_of_the_released_models(shape, parts, total):
    """Section 5.6 of the spec; the feature pyramid's share is held by the scene encoder's tests."""
    dim, history, text_in_blocks = shape
    sizes = ActorSizes(dim=dim, num_history=history, text_dim=512, text_in_blocks=text_in_blocks, parity=True)
    counts = part_counts(SceneReader(sizes), PoseDenoiser(sizes))
    if parts is not None:
        assert tuple(v for k, v in counts.items() if k != "other") == parts
    assert sum(counts.values()) + FPN[dim] == total


def test_without_parity_only_what_is_used_is_built():
    """The goal embedding, and the perceptron of the layer that brings the text to the trajectory, are never used."""
    sizes = ActorSizes(dim=48, text_dim=16)
    with_all = part_counts(*(cls(dataclasses.replace(sizes, parity=True)) for cls in (SceneReader, PoseDenoiser)))
    used = part_counts(SceneReader(sizes), PoseDenoiser(sizes))
    unused = {k: v - used[k] for k, v in with_all.items() if v != used[k]}
    assert unused == {"language_to_trajectory": 8 * 48**2 + 7 * 48, "other": 48}


# ----------------------------------------------------------------------------------------------------- symmetries


def test_shifting_everything_is_seen_by_the_absolute_pose_layer_only():
    _, net = make(ActorSizes(dim=192, self_layers=1, branch_layers=1))
    scene, x, shift = scene_of(ActorSizes(dim=192)), poses(), torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
    base = outputs(net, x, scene)
    moved = scene._replace(positions=scene.positions + shift)
    x_moved = x.clone()
    x_moved[..., :3] += shift
    assert gap(outputs(net, x_moved, moved), base) > 1e-3
    net.pose_in.bias.data -= net.pose_in.weight[:, :3] @ shift
    assert gap(outputs(net, x_moved, moved), base) < 1e-12


def test_the_order_of_tokens_does_not_matter():
    _, net = make(TINY)
    scene, x = scene_of(TINY), poses()
    base = outputs(net, x, scene)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(4))
    where = order.argsort()[scene.subset]  # the same tokens, at their new numbers
    mixed = scene._replace(tokens=scene.tokens[:, order], positions=scene.positions[:, order], subset=where)
    assert gap(outputs(net, x, mixed), base) < 1e-12
    assert gap(outputs(net, x, scene._replace(subset=scene.subset.flip(1))), base) < 1e-12


@pytest.mark.parametrize("sizes", [TINY, TEXT, dataclasses.replace(TEXT, text_in_blocks=False)])
def test_rows_of_a_batch_do_not_influence_one_another(sizes):
    _, net = make(sizes)
    scene, x = scene_of(sizes), poses()
    together = outputs(net, x, scene)
    for i in range(3):
        alone = outputs(net, x[i : i + 1], rows(scene, slice(i, i + 1)))
        assert gap(alone, together[i : i + 1]) < 1e-12


def test_tokens_without_a_place_are_not_attended_to():
    reader, net = make(TINY)
    scene = scene_of(TINY)
    valid = scene.valid.clone()
    valid[:, 6] = False
    scene = scene._replace(valid=valid)
    other = scene.tokens.clone()
    other[:, 6] += 5
    assert gap(outputs(net, poses(), scene), outputs(net, poses(), scene._replace(tokens=other))) == 0
    places = torch.zeros(3, 2, 3, dtype=torch.float64)
    histories = [reader.read_history(t, scene.positions, places, valid=valid) for t in (scene.tokens, other)]
    assert gap(*histories) == 0


# ------------------------------------------------------------------------------------------------- the zero start


def test_at_the_start_neither_time_nor_history_is_seen():
    _, net = make(TEXT, train_start=True)
    scene, x = scene_of(TEXT), poses()
    base = outputs(net, x, scene, t=3)
    changed = scene._replace(history=scene.history + 1)
    assert gap(outputs(net, x, scene, t=90), base) == 0
    assert gap(outputs(net, x, changed, t=3), base) == 0
    net(x, torch.tensor(3), scene)[0].square().mean().backward()
    for parameter in net.parameters():  # one step downhill
        if parameter.grad is not None:
            parameter.data -= 0.1 * parameter.grad
    base = outputs(net, x, scene, t=3)
    assert gap(outputs(net, x, scene, t=90), base) > 0
    assert gap(outputs(net, x, changed, t=3), base) > 0


# -------------------------------------------------------------------------------------------------- text and caches


@pytest.mark.parametrize("masked", [True, False])
def test_padding_of_the_text_counts_only_without_a_mask(masked):
    reader, net = make(TEXT)
    scene = scene_of(TEXT)
    mask = scene.text_mask if masked else None
    padded = scene.text.clone()
    padded[:, 3] += 3
    seen = [outputs(net, poses(), scene._replace(text=t, text_mask=mask)) for t in (scene.text, padded)]
    tokens = [reader(scene.tokens, scene.positions, t, mask) for t in (scene.text, padded)]
    assert (gap(*seen) == 0) is masked
    assert (gap(*tokens) == 0) is masked


def test_the_prepared_scene_changes_nothing():
    _, net = make(TEXT)
    scene, x = scene_of(TEXT), poses()
    memory = net.prepare(scene)
    with torch.no_grad():
        for t in (0, 50):
            plain, cached = net(x, torch.tensor(t), scene), net(x, torch.tensor(t), scene, memory)
            assert torch.equal(plain[0], cached[0])
            assert torch.equal(plain[1], cached[1])


def test_places_carry_gradient_nowhere():
    reader, net = make(TINY)
    scene = scene_of(TINY)
    positions = scene.positions.clone().requires_grad_()
    tokens = scene.tokens.clone().requires_grad_()
    history = reader.read_history(tokens, positions, torch.zeros(3, 2, 3, dtype=torch.float64))
    net(poses(), torch.tensor(5), scene._replace(tokens=tokens, positions=positions, history=history))[
        0
    ].sum().backward()
    assert positions.grad is None
    assert float(tokens.grad.abs().max()) > 0
