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
from robopolicy.samplers.registry import make_sampler
from robopolicy.testing.check_policy import check_policy
from robopolicy.testing.teachers import GaussianTeacher
from robopolicy.testing.tiny import TINY_ENCODER, TINY_UNET, tiny_policy, tiny_spec, unit_stats
from robopolicy.training.batches import BatchSource, to_tensors
from robopolicy.training.config import DistillConfig, EMAConfig, OptimizerConfig
from robopolicy.training.distill import Distiller, DistillLoss, Ladder, check_data, make_student, student_config
from robopolicy.training.distill_validation import TeacherDistance
from robopolicy.training.ema import EMA
from robopolicy.training.optim import build_optimizer, lr_multiplier, set_lr
from robopolicy.training.step import Stepper
from robopolicy.training.validation import OpenLoop

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
        pad = np.zeros((n, 8), bool)
        return {
            STATE: state,
            ACTION: action,
            ACTION_IS_PAD: pad,
            "index": np.asarray(indices),
            "episode_index": indices,
        }


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
    end = Ladder(path, times).trajectory(teacher, latent, path.prior_std, None)[-1]
    torch.testing.assert_close(end, MEAN + STD * latent, atol=error * 2, rtol=0)


@pytest.mark.parametrize(("path", "spacing"), [(LinearFlow(0), "linear"), (VPDiscrete.make(), "trailing")])
def test_the_euler_ladder_is_the_decoder_of_the_heads(path, spacing):
    """Euler on a linear flow, DDIM on a diffusion path: the chunks that the teacher itself would give."""
    teacher, times = GaussianTeacher(path, MEAN, STD), path.grid(10, spacing)
    latent = torch.linspace(-2, 2, 9).reshape(9, 1, 1)
    end = Ladder(path, times, heun=False).trajectory(teacher, latent, path.prior_std, None)[-1]
    own = make_sampler("euler" if spacing == "linear" else "ddim")(teacher, path, times, latent * path.prior_std)
    torch.testing.assert_close(end, own, atol=1e-5, rtol=0)


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


def config(**changes) -> DistillConfig:
    return DistillConfig(**{"teacher": "in memory", **changes})


@pytest.mark.parametrize("aim", ["end", "neighbour"])
def test_the_exact_jump_has_no_loss_and_others_do(aim):
    """The Gaussian's own jump (spec 10.4) satisfies the student's loss; an untrained network does not."""
    teacher = flow_policy()
    student = make_student(teacher).eval()
    teacher.net = Fixed(teacher)
    distiller = Distiller(teacher, config(levels=40, solver="heun", aim=aim))
    batch = to_tensors(OneState().gather(np.arange(64)))
    noise = student.draw_training_noise(64, torch.Generator().manual_seed(0))
    mean = MEAN * batch[STATE][:, :1, :1].sign()

    def jump(features, z: Tensor, t: Tensor) -> Prediction:
        a, s = t.reshape(-1, 1, 1), 1 - t.reshape(-1, 1, 1)
        x0 = mean + (z - a * mean) * STD / (a * a * STD**2 + s * s).sqrt()
        return Prediction(x0, x0, t)

    untrained = distiller.loss(student, batch, noise)
    assert untrained.shape == (64,)
    student._query = jump  # type: ignore[method-assign]
    assert float(distiller.loss(student, batch, noise).mean()) < 2e-4 < float(untrained.detach().mean()) / 20


def test_a_row_of_the_loss_is_its_own():
    """Per-sample losses do not change with the batch around them, so micro-batches give the same gradient."""
    teacher = flow_policy()
    student, distiller = make_student(teacher).eval(), Distiller(teacher, config(levels=4))
    batch = to_tensors(OneState().gather(np.arange(8)))
    noise = student.draw_training_noise(8, torch.Generator().manual_seed(0))
    whole = distiller.loss(student, batch, noise).detach()
    cut = ({k: v[3:6] for k, v in part.items()} for part in (batch, noise))
    torch.testing.assert_close(distiller.loss(student, *cut).detach(), whole[3:6], atol=1e-5, rtol=0)


def learn(teacher: Policy, steps: int, aim: str) -> tuple[FlowPolicy, dict[str, float], dict[str, float]]:
    """A student after ``steps``, and what its validation says before and after."""
    from accelerate import Accelerator

    network, student = teacher.net, make_student(teacher).eval()
    teacher.net = Fixed(teacher)
    teacher.net.optim_groups = network.optim_groups  # type: ignore[union-attr]
    distiller = Distiller(teacher, config(levels=8, solver="heun", aim=aim))
    measure = TeacherDistance(OpenLoop(OneState(), 32, 0), distiller)
    options = OptimizerConfig(lr=1e-2, warmup_steps=20, grad_clip=1.0)
    optimizer = build_optimizer(student, options)
    loss = DistillLoss(student, distiller)
    stepper = Stepper(loss, optimizer, Accelerator(cpu=True), batch_size=32, seed=0, grad_clip=1.0, bf16=False)
    source, ema = BatchSource(OneState(), student.draw_training_noise, 32, 0), EMA(student, EMAConfig())
    before = measure(ema.refresh())
    for step in range(steps):
        set_lr(optimizer, lr_multiplier(step + 1, options, steps))
        stepper(source(step), step)
        ema.update()
    return ema.refresh(), before, measure(ema.refresh())


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "aim"), [("flow", "end"), ("diffusion", "end"), ("flow", "neighbour")])
def test_a_student_learns_its_teachers_jump(kind, aim):
    """In a few hundred steps from random weights, one query comes near the ends of the teacher's flow."""
    teacher = flow_policy() if kind == "flow" else tiny_policy(horizon=8, n_action_steps=4, clip=None)
    student, before, after = learn(teacher, 300, aim)
    assert student.denoiser_calls == 1
    assert after["teacher_distance"] < 0.25 * before["teacher_distance"]
    # Ten Euler levels leave data of this width 20 to 30 % too narrow, whatever the teacher (flow spec, table 10.1).
    assert after["teacher_spread"] == before["teacher_spread"]
    assert 0.65 < after["teacher_spread"] / (STD * 2**0.5) < 1.1
    ctx = student.encode({STATE: torch.ones(1, 2, 3) * 0.5})
    drawn = student.sample(ctx, 400, torch.Generator().manual_seed(0))
    assert float(drawn.mean()) == pytest.approx(MEAN, abs=0.08)
    assert 0.75 * STD < float(drawn.std()) < 2 * STD  # neither averaged to a point nor noise


def test_the_distance_of_the_teachers_own_jump_is_the_solvers_error():
    teacher = flow_policy()
    student = make_student(teacher).eval()
    teacher.net = Fixed(teacher)
    measure = TeacherDistance(OpenLoop(OneState(), 32, 0), Distiller(teacher, config(levels=40, solver="heun")))
    untrained = measure(student)

    def jump(ctx, z: Tensor, *, tape=None) -> Tensor:
        return MEAN * states[len(z)] + z * STD

    states = {32: torch.from_numpy(OneState().gather(measure.open_loop.indices)[STATE][:, :1, :1]).sign()}
    student.decode = jump  # type: ignore[method-assign]
    exact = measure(student)
    assert exact["teacher_distance"] < 0.01 < untrained["teacher_distance"]
    assert exact["student_spread"] == pytest.approx(exact["teacher_spread"], rel=0.02)


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
    teacher = flow_policy()
    student = make_student(teacher, student_config(teacher.config, 3))
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
        (lambda: config(levels=1), "levels"),
        (lambda: make_student(flow_policy(), flow_policy().config), "one_step"),
        (lambda: make_student(flow_policy(), student_config(flow_policy(n_action_steps=2).config)), "n_action_steps"),
    ],
)
def test_what_cannot_be_distilled_is_told_so(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


class Data:
    """What ``check_data`` looks at."""

    def __init__(self, fps: float = 10.0, space: ActionSpace | None = None, state: int = 3) -> None:
        self.fps, self.space = fps, space or ActionSpace(2)
        self.config, self.reader = type("C", (), {"path": "some/data"})(), self
        self.observation_spec = tiny_spec(state)

    def action_space(self) -> ActionSpace:
        return self.space


def test_data_that_fit_the_teacher_are_taken():
    check_data(flow_policy(), Data())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Data(fps=20.0), "20 frames a second, but the teacher acts at 10"),
        (Data(space=ActionSpace(3)), "actions have 3 channels, the teacher's have 2"),
        (Data(state=5), r"'observation.state' is \(5,\), the teacher expects \(3,\)"),
    ],
)
def test_data_that_do_not_fit_are_refused(data, message):
    with pytest.raises(ConfigError, match=message):
        check_data(flow_policy(), data)
