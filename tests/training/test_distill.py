"""One-step distillation: the ladder follows the exact flow on every path, and students learn to jump to its end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robopolicy.core.errors import ConfigError, MissingCapability
from robopolicy.core.policy import Cap, Prediction
from robopolicy.core.specs import ACTION, ACTION_IS_PAD, STATE, ActionSpace
from robopolicy.paths import VE, GaussianPath, LinearFlow, VPDiscrete
from robopolicy.policies.base import Policy
from robopolicy.policies.flow import FlowPolicy
from robopolicy.policies.flow_config import FlowConfig
from robopolicy.policies.registry import make_policy
from robopolicy.testing.check_policy import check_policy
from robopolicy.testing.teachers import GaussianTeacher
from robopolicy.testing.tiny import TINY_ENCODER, TINY_UNET, tiny_policy, tiny_spec, unit_stats
from robopolicy.training.distill import DistillConfig, Distiller, Ladder, distill, make_student, student_config

MEAN, STD = 0.3, 0.2


class Fixed(nn.Module):
    """An exact network in the place of a trained one; the condition moves the mean."""

    cond_kind = "vector"

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.path, self.kind = policy.path, policy.config.type

    def forward(self, z: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        if self.kind == "flow":  # labels are 100 t, noise at 0; velocity of N(mean, STD^2)
            a = (t / 100).reshape(-1, 1, 1)
            s = 1 - a
        else:
            a, s = (c.reshape(-1, 1, 1) for c in (self.path.alpha(t), self.path.sigma(t)))
        mean = MEAN * cond[:, :1, None].sign()
        x0 = mean + STD**2 * a / (a * a * STD**2 + s * s) * (z - a * mean)
        if self.kind == "diffusion":
            return s * (z - a * mean) / (a * a * STD**2 + s * s)
        return x0 - (z - a * x0) / s.clamp(min=1e-6)


class OneState:
    """Windows of a state and actions around its sign."""

    def __len__(self) -> int:
        return 512

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(int(indices[0]))
        n = len(indices)
        state = rng.uniform(-1, 1, (n, 2, 3)).astype(np.float32)
        noise = STD * rng.standard_normal((n, 8, 2))
        action = (MEAN * np.sign(state[:, :1, :1]) + noise).astype(np.float32)
        return {STATE: state, ACTION: action, ACTION_IS_PAD: np.zeros((n, 8), bool)}


def flow_policy(**changes) -> FlowPolicy:
    sizes = {"unet": TINY_UNET, "encoder": TINY_ENCODER, "horizon": 8, "n_action_steps": 4, "num_inference_steps": 4}
    torch.manual_seed(0)
    policy = make_policy(
        FlowConfig(**{**sizes, **changes}),
        tiny_spec(3),
        ActionSpace(2, low=(-2.0, -2.0), high=(2.0, 2.0)),
        10.0,
        {STATE: unit_stats(3), ACTION: unit_stats(2)},
    )
    assert isinstance(policy, FlowPolicy)
    return policy.eval()


@pytest.mark.parametrize(
    ("path", "times", "error"),
    [
        (LinearFlow(0), LinearFlow(0).grid(40), 2e-3),
        (LinearFlow(1), LinearFlow(1).grid(40), 2e-3),
        (VE(0.01, 40.0), VE(0.01, 40.0).grid(60, "karras"), 6e-3),
        (VPDiscrete.make(), VPDiscrete.make().grid(100, "trailing"), 1.2e-2),
    ],
)
def test_the_ladder_ends_where_the_exact_flow_ends(path: GaussianPath, times: Tensor, error: float):
    teacher = GaussianTeacher(path, MEAN, STD)
    latent = torch.linspace(-2, 2, 9).reshape(9, 1, 1)
    end = Ladder(path, times).end(teacher, latent, path.prior_std, None)
    torch.testing.assert_close(end, MEAN + STD * latent, atol=error * 2, rtol=0)


@pytest.mark.parametrize("path", [LinearFlow(1), VE(0.01, 40.0), VPDiscrete.make()])
def test_states_keep_their_noise_ratio_on_the_way_to_the_student(path):
    times = path.grid(10, {"LinearFlow": "linear", "VE": "karras", "VPDiscrete": "trailing"}[type(path).__name__])
    ladder = Ladder(path, times)
    x, e = torch.randn(1, 4, 2), torch.randn(1, 4, 2)
    for i in range(len(ladder) + 1):
        index = torch.tensor([i])
        z = ladder.alpha[i] * x + ladder.sigma[i] * e
        s = ladder.noise[i]
        torch.testing.assert_close(
            ladder.to_student(z, index), (1 - s) * x + s * e, atol=0.06 if s == 1 else 1e-5, rtol=0
        )
    assert ladder.noise[0] == 1 or isinstance(path, VE)
    assert ladder.noise[-1] == 0


def test_the_exact_jump_has_no_loss_and_others_do():
    """The Gaussian's own jump (spec 10.4) satisfies the student's loss; an identity does not."""
    distiller = Distiller(flow_policy(), DistillConfig(levels=40))
    distiller.teacher.net = Fixed(distiller.teacher)
    student, data = distiller.student, OneState()
    batch = data.gather(np.arange(64))
    from robopolicy.training.batches import MicroBatch, to_tensors

    micro = MicroBatch(
        to_tensors(batch), student.draw_training_noise(64, torch.Generator().manual_seed(0)), np.arange(64)
    )
    mean = MEAN * micro.batch[STATE][:, :1, :1].sign()

    def jump(features, z: Tensor, t: Tensor) -> Prediction:
        a, s = t.reshape(-1, 1, 1), 1 - t.reshape(-1, 1, 1)
        x0 = mean + (z - a * mean) * STD / (a * a * STD**2 + s * s).sqrt()
        return Prediction(x0, x0, t)

    untrained = float(distiller.loss(micro).detach())
    student._query = jump  # type: ignore[method-assign]
    assert float(distiller.loss(micro)) < 2e-4 < untrained / 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flow", "diffusion"])
def test_a_student_learns_its_teachers_jump(kind):
    """In a few hundred steps from random weights, one query comes near the ends of the teacher's flow."""
    if kind == "flow":
        teacher: Policy = flow_policy()
    else:
        teacher = tiny_policy(horizon=8, n_action_steps=4, clip=None)
    network = teacher.net
    teacher.net = Fixed(teacher)
    teacher.net.optim_groups = network.optim_groups  # type: ignore[union-attr]
    result = distill(teacher, OneState(), DistillConfig(steps=300, batch_size=32, lr=1e-2, levels=8), progress=False)
    assert result.student.denoiser_calls == 1
    assert result.after < 0.25 * result.before
    ctx = result.student.encode({STATE: torch.ones(1, 2, 3) * 0.5})
    drawn = result.student.sample(ctx, 400, torch.Generator().manual_seed(0))
    assert float(drawn.mean()) == pytest.approx(MEAN, abs=0.08)
    assert 0.75 * STD < float(drawn.std()) < 2 * STD  # neither averaged to a point nor noise


def test_students_keep_the_contract_and_their_teachers_parts():
    teacher = flow_policy(noise_at=1, time_law="beta")
    student = make_student(teacher)
    assert {Cap.SCORE, Cap.MEAN_DENOISER}.isdisjoint(student.caps)
    assert {Cap.SAMPLE, Cap.DECODE, Cap.TRAIN, Cap.GRAD_DECODE} <= student.caps
    assert student.config.noise_at == 1
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), student.parameters(), strict=True))
    check_policy(student.eval())
    ctx = student.encode({STATE: torch.zeros(1, 2, 3)})
    with pytest.raises(MissingCapability, match="one-step"):
        student.predict(ctx, torch.zeros(1, 8, 2), torch.tensor(0.5))


def test_several_queries_with_fresh_noise():
    student = make_student(flow_policy(), queries=3)
    assert student.denoiser_calls == 3
    student.set_sampler(sampler="renoise")
    assert student.tape_len == 2
    assert Cap.DECODE not in student.caps
    check_policy(student.eval())


def test_the_loss_without_a_teacher_ties_the_end_to_the_data():
    """Near the clean end the aim is the clean chunk itself."""
    student = make_student(flow_policy())
    target, eps = torch.randn(4, 8, 2), torch.randn(4, 8, 2)
    ctx = student.encode({STATE: torch.zeros(4, 2, 3)})
    t = torch.full((4,), 0.99)  # noise fraction 0.01, less than a level
    loss = student.head_loss(ctx, target, None, {"t": t, "eps": eps})
    z = student.path.add_noise(target, eps, t)
    expected = (student._query(ctx, z, t).x0 - target).square().mean((1, 2))
    torch.testing.assert_close(loss, expected)
    assert bool(torch.isfinite(loss).all())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_student(make_student(flow_policy())), "needs SCORE and MEAN_DENOISER"),
        (lambda: student_config(type("C", (), {"type": "ebt"})()), "flow or diffusion teacher"),
        (lambda: FlowConfig(one_step=True, sampler="rk4"), "euler, renoise"),
        (lambda: DistillConfig(levels=1), "levels"),
    ],
)
def test_what_cannot_be_distilled_is_told_so(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
