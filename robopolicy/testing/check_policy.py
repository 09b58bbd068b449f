"""``check_policy(policy)``: the policy contract as executable rules, for our heads and for yours.

Each rule is one function that raises ``ContractViolation`` saying what was promised and what came instead; the
promises are those of ``GenerativePolicy`` and of the observation border.  No pretrained weights are needed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robopolicy.core.chunk import ActionChunk
from robopolicy.core.errors import ConfigError, InvalidObservation, MissingCapability, RobopolicyError, did_you_mean
from robopolicy.core.policy import Cap
from robopolicy.encoders.memory import Memory
from robopolicy.paths.convert import Kind
from robopolicy.policies.base import Policy
from robopolicy.policies.io import load_policy, save_policy
from robopolicy.testing.bad_observations import bad_observations
from robopolicy.testing.tiny import random_batch, random_observation

# Rows of a batch may differ from the same rows alone by the order in which a matrix product adds.
BATCH_TOLERANCE = 1e-5
Rule = Callable[[Policy], None]
RULES: dict[str, Rule] = {}


class ContractViolation(RobopolicyError, AssertionError):
    """A policy broke a promise of the contract."""


def check_policy(policy: Policy, rules: Collection[str] | None = None) -> list[str]:
    """Run the rules (all by default) and return their names; raises ``ContractViolation`` listing all that failed.

    The policy is left as it was found.
    """
    chosen = list(RULES) if rules is None else list(rules)
    failures = []
    training = policy.training
    policy.eval()
    for name in chosen:
        if name not in RULES:
            raise ConfigError(f"no rule '{name}'" + did_you_mean(name, RULES))
        try:
            RULES[name](policy)
        except ContractViolation as e:
            failures.append(f"{name}: {e}")
    policy.train(training)
    if failures:
        raise ContractViolation("; ".join(failures))
    return chosen


def rule(function: Rule) -> Rule:
    """Register a rule under its name without ``check_``."""
    RULES[function.__name__.removeprefix("check_")] = function
    return function


def expect(condition: bool | np.bool_, message: str) -> None:
    """Raise ``ContractViolation(message)`` unless ``condition``."""
    if not condition:
        raise ContractViolation(message)


def keys(rows: int) -> list[tuple[int, int]]:
    """Noise keys of a batch, one a row."""
    return [(7, row) for row in range(rows)]


# ------------------------------------------------------------------------------------------------ the border


@rule
def check_chunk(policy: Policy) -> None:
    """Chunks have the declared shape and type, are finite and within the action space, and leave no gradient."""
    space = policy.action_spec.space
    low = -np.inf if space.low is None else np.array(space.low, np.float32)
    high = np.inf if space.high is None else np.array(space.high, np.float32)
    for batch in (1, 3, 2):
        chunk = _act(policy, random_observation(policy, batch, seed=batch), observed_at=5.0)
        expect(chunk.actions.shape == (batch, policy.action_spec.horizon, space.dim), f"shape {chunk.actions.shape}")
        expect(chunk.actions.dtype == np.float32, f"dtype {chunk.actions.dtype}, expected float32")
        expect(np.isfinite(chunk.actions).all(), "non-finite actions")
        expect(bool((chunk.actions >= low).all() and (chunk.actions <= high).all()), "actions beyond low/high")
        now = chunk.stamps[:, policy.action_spec.exec_start]
        expect(bool((now == 5.0).all()), f"the executed part starts at {now}, the observation was at 5.0")
    expect(all(p.grad is None for p in policy.parameters()), "act() left gradients behind")


@rule
def check_bad_input(policy: Policy) -> None:
    """Every wrong observation is refused with ``InvalidObservation`` naming the key, and NaN with its index."""
    good = random_observation(policy, 2)
    for label, key, obs in bad_observations(good, policy.observation_spec):
        try:
            _act(policy, obs)
        except InvalidObservation as e:
            expect(key in str(e), f"'{label}' was refused without naming {key}: {e}")
            expect("nan" not in label.lower() or "index" in str(e), f"'{label}' was refused without an index: {e}")
            expect("\n" not in str(e), f"'{label}': the message has several lines")
        except Exception as e:
            raise ContractViolation(f"'{label}' raised {type(e).__name__} ({e})") from e
        else:
            raise ContractViolation(f"'{label}' was accepted")


@rule
def check_no_mutation(policy: Policy) -> None:
    """Observations are neither changed nor kept; read-only ones are accepted; extra keys do no harm."""
    obs = random_observation(policy, 2)
    before = {k: v.copy() for k, v in obs.items()}
    first = _act(policy, obs, keys(2)).actions
    expect(all(np.array_equal(obs[k], before[k]) for k in obs), "act() changed the observation")
    for value in obs.values():
        value.setflags(write=False)
    again = _act(policy, {**obs, "observation.unknown": np.zeros(1)}, keys(2)).actions
    expect(np.array_equal(first, again), "read-only arrays or an extra key change the actions")


@rule
def check_mode(policy: Policy) -> None:
    """``act`` works in evaluation mode whatever the mode, and puts it back."""
    obs = random_observation(policy, 2)
    quiet = _act(policy.eval(), obs, keys(2)).actions
    loud = _act(policy.train(), obs, keys(2)).actions
    expect(policy.training, "act() switched training mode off")
    policy.eval()
    expect(np.array_equal(quiet, loud), "act() depends on the training mode: dropout, crops or BatchNorm are active")


# ---------------------------------------------------------------------------------------------- randomness


@rule
def check_seeds(policy: Policy) -> None:
    """Equal keys give equal chunks, other keys other chunks; without keys torch's seed decides."""
    obs = random_observation(policy, 2)
    first = _act(policy, obs, keys(2)).actions
    expect(np.array_equal(first, _act(policy, obs, keys(2)).actions), "equal noise keys give different chunks")
    expect(not np.array_equal(first, _act(policy, obs, [(8, 0), (8, 1)]).actions), "the noise keys have no effect")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        one, two = _act(policy, obs).actions, _act(policy, obs).actions
        torch.manual_seed(3)
        expect(np.array_equal(one, _act(policy, obs).actions), "torch.manual_seed does not reproduce act()")
        expect(not np.array_equal(one, two), "two calls without keys share their noise")


@rule
def check_batch_equals_singles(policy: Policy) -> None:
    """A row's chunk, and what the network says of its noise, do not depend on the other rows of its batch."""
    obs = random_observation(policy, 5)
    rows = [slice(i, i + 1) for i in range(5)]
    together = _act(policy, obs, keys(5)).actions
    alone = np.concatenate([_act(policy, _rows(obs, row), keys(5)[row]).actions for row in rows])
    gap = float(np.abs(together - alone).max() / _span(policy))
    expect(gap <= tolerance(policy), f"batch and singles differ by {gap:.2g} of the action range")
    if Cap.SCORE in policy.caps:
        z = torch.randn(5, *policy.latent_shape, generator=torch.Generator().manual_seed(0)).to(policy.device)
        with torch.no_grad():
            ctx, t = policy.encode(_tensors(policy, 5)), policy.path.grid(1, policy.config.spacing)[0]
            single = [policy.predict(ctx.index_select(torch.arange(5)[row]), z[row], t).eps for row in rows]
            expect(_close(torch.cat(single), policy.predict(ctx, z, t).eps), "predict() of a batch and singles differ")


def tolerance(policy: Policy) -> float:
    """Share of the action range by which rounding alone may move a chunk.

    The noise that an epsilon head answers is taken from nearly pure noise and the rest divided by alpha, so there one
    rounding of the network counts sigma / alpha times.
    """
    if getattr(getattr(policy, "precondition", None), "kind", None) is not Kind.EPS:
        return BATCH_TOLERANCE
    gain = policy.path.kappa(policy.path.grid(1, policy.config.spacing)[:1]).max()
    return max(BATCH_TOLERANCE, torch.finfo(torch.float32).eps * float(gain))


def _span(policy: Policy) -> float:
    stats = policy.stats["action"]
    return max(max(h - lo for h, lo in zip(stats.max, stats.min, strict=True)), 1e-6)


# --------------------------------------------------------------------------------------------- the contract


@rule
def check_purity(policy: Policy) -> None:
    """``decode`` is a function of (context, latent, tape); ``sample`` decodes the latents it draws (8.3)."""
    policy.require(Cap.SAMPLE, whom="check_policy")
    with torch.no_grad():
        ctx = policy.encode(_tensors(policy, 3))
        latent, tape = policy.draw_latents(3, torch.Generator().manual_seed(0))
        first = policy.decode(ctx, latent, tape=tape)
        expect(torch.equal(first, policy.decode(ctx, latent, tape=tape)), "decode() twice differs")
        order = torch.tensor([2, 0, 1], device=first.device)
        turned = policy.decode(ctx.index_select(order), latent[order], tape=None if tape is None else tape[order])
        expect(_close(turned, first[order]), "permuting the batch does not permute the chunks")
        drawn = policy.sample(ctx, 4, torch.Generator().manual_seed(1))
        latent, tape = policy.draw_latents(12, torch.Generator().manual_seed(1))
        direct = policy.decode(ctx.repeat_interleave(4), latent, tape=tape).unflatten(0, (3, 4))
        expect(torch.equal(drawn, direct), "sample() is not decode() of draw_latents()")
        if Cap.DECODE in policy.caps:
            expect(tape is None, "a policy with DECODE must not need a tape")


@rule
def check_capabilities(policy: Policy) -> None:
    """What is claimed works, what is not claimed raises ``MissingCapability``."""
    obs = _tensors(policy, 2)
    expect(Cap.SAMPLE in policy.caps, "every policy can SAMPLE")
    with torch.no_grad():
        ctx = policy.encode(obs)
        z = torch.zeros(2, *policy.latent_shape, device=policy.device)
        target = torch.zeros(2, policy.action_spec.horizon, policy.action_spec.dim, device=policy.device)
        # A head without scores may have no noise levels to take one from.
        t = policy.path.grid(1, policy.config.spacing)[0] if Cap.SCORE in policy.caps else target.new_zeros(())
        calls: dict[Cap, Callable[[], object]] = {
            Cap.SCORE: lambda: policy.predict(ctx, z, t),
            Cap.ENERGY: lambda: policy.energy(ctx, z),
            Cap.TRAIN: lambda: policy.supervised_loss(obs, target),
        }
        for cap, call in calls.items():
            try:
                call()
            except MissingCapability:
                expect(cap not in policy.caps, f"{cap.name} is claimed but missing")
            else:
                expect(cap in policy.caps, f"{cap.name} works but is not claimed")


@rule
def check_round_trip(policy: Policy) -> None:
    """``predict`` splits the state: ``z = alpha x0 + sigma eps`` at every level (8.1)."""
    if Cap.SCORE not in policy.caps:
        return
    with torch.no_grad():
        ctx = policy.encode(_tensors(policy, 2))
        z = torch.randn(2, *policy.latent_shape, generator=torch.Generator().manual_seed(0)).to(policy.device)
        for t in policy.path.grid(policy.config.num_inference_steps, policy.config.spacing):
            p = policy.predict(ctx, z, t)
            rebuilt = policy.path.alpha(t).to(z) * p.x0 + policy.path.sigma(t).to(z) * p.eps
            error = float((rebuilt - z).abs().max() / (1 + p.eps.abs().max()))
            expect(error < 1e-5, f"at t={t.item()} the prediction does not rebuild the state (error {error:.2g})")


@rule
def check_encode_once(policy: Policy) -> None:
    """Fifty samples of one observation cost one encoding (8.5)."""
    encoder = getattr(policy, "encoder", None)
    expect(isinstance(encoder, nn.Module), "the policy has no module named 'encoder'")
    assert isinstance(encoder, nn.Module)
    with _counted(encoder) as calls:
        policy.sample(policy.encode(_tensors(policy, 1)), 50)
    expect(len(calls) == 1, f"sample(50) ran the encoder {len(calls)} times")


def latent_sensitivity(policy: Policy, observations: int = 4, step: float = 1e-2) -> dict[str, float]:
    """How much the latent moves the action (8.4): spread of chunks under two latents, and mean ``|da/dw|``.

    ``spread`` is relative to the standard deviation of the chunks; ``slope`` is by finite differences.
    """
    with torch.no_grad():
        ctx = policy.encode(_tensors(policy, observations))
        one, tape = policy.draw_latents(observations, torch.Generator().manual_seed(0))
        two, _ = policy.draw_latents(observations, torch.Generator().manual_seed(1))
        a, b = policy.decode(ctx, one, tape=tape), policy.decode(ctx, two, tape=tape)
        near = policy.decode(ctx, one + step * two.sign(), tape=tape)
    scale = float(torch.cat([a, b]).std().clamp(min=1e-9))
    return {"spread": float((a - b).std()) / scale, "slope": float((near - a).abs().mean()) / step}


@rule
def check_latent(policy: Policy) -> None:
    """The sensitivity probe gives finite numbers."""
    probe = latent_sensitivity(policy)
    expect(all(np.isfinite(v) for v in probe.values()), f"latent sensitivity is not finite: {probe}")


# --------------------------------------------------------------------------------------------------- memory


@rule
def check_memory(policy: Policy) -> None:
    """What a recurrent policy carries: a reset begins anew, each episode has its own, samples do not advance it."""
    expect(policy.recurrent == policy.needs.chained, "recurrent policies, and no others, need chains of windows")
    if not policy.recurrent:
        return
    plans = [random_observation(policy, 2, seed) for seed in range(3)]
    names = ["a", "b"]
    first = _episode(policy, plans, names)
    expect(np.array_equal(first, _episode(policy, plans, names)), "after reset() an episode is not a new one")
    policy.reset()
    for obs in plans:
        policy.act(obs, keys(2), episodes=names)
    policy.reset(["a"])
    mixed = policy.act(plans[0], keys(2), episodes=names).actions
    expect(_near(policy, mixed[0], first[0, 0]), "reset(['a']) left something of episode a behind")
    expect(len(policy.memories) == 2, f"two episodes, {len(policy.memories)} memories")
    swapped = [{k: v[::-1].copy() for k, v in obs.items()} for obs in plans]
    turned = _episode(policy, swapped, names[::-1], keys(2)[::-1])
    expect(_near(policy, turned[:, ::-1], first), "an episode's chunks depend on the row it has, or on the other rows")
    policy.reset()


@rule
def check_state(policy: Policy) -> None:
    """The state keeps its size, is the same however many chunks are sampled, and unrolls over chains."""
    if not policy.recurrent:
        return
    policy.reset()
    memory, observed, states = None, [], []
    with torch.no_grad():
        for seed in range(50):
            observed.append(_tensors(policy, 2, seed))
            ctx = policy.encode(observed[-1], memory)
            states.append(ctx.extras["memory"])
            memory = Memory(states[-1], torch.zeros(2, dtype=torch.bool, device=policy.device))
        sizes = {tuple(s.shape) for s in states}
        expect(sizes == {(2, *policy.blank_memory().shape)}, f"the state changes its size: {sizes}")
        expect(bool(torch.isfinite(torch.stack(states)).all()), "the state is not finite after 50 plans")
        before = states[-1].clone()
        for samples in (1, 8):
            policy.sample(ctx, samples, torch.Generator().manual_seed(0))
            expect(torch.equal(ctx.extras["memory"], before), f"{samples} samples change the next state")
        expect(not len(policy.memories), "encode() or sample() committed a state; only act() may")
        chain = {k: _chained([o[k] for o in observed[:6]]) for k in observed[0]}
        rolled = policy._encode(policy.checker.check(chain), chain=6).extras["memory"].unflatten(0, (2, 6))
        expect(_close(rolled, torch.stack(states[:6], 1)), "a chain unrolled in training differs from single plans")


def _episode(policy: Policy, plans: list, names: list[str], noise_keys: list | None = None) -> np.ndarray:  # type: ignore[type-arg]
    """Actions ``(plans, B, H, D)`` of whole episodes."""
    policy.reset()
    rows = [policy.act(obs, noise_keys or keys(2), episodes=names).actions for obs in plans]
    policy.reset()
    return np.stack(rows)


def _near(policy: Policy, a: np.ndarray, b: np.ndarray) -> bool:
    return float(np.abs(a - b).max()) <= tolerance(policy) * _span(policy)


# ------------------------------------------------------------------------------------------------- training


@rule
def check_loss(policy: Policy) -> None:
    """Losses are one finite number a sample, a function of (batch, noise), and splitting a batch changes nothing."""
    if Cap.TRAIN not in policy.caps:
        return
    batch = random_batch(policy, 4)
    noise = policy.draw_training_noise(4, torch.Generator().manual_seed(0))
    expect(all(len(v) == 4 for v in noise.values()), "draw_training_noise: every entry needs a leading (n,)")
    with torch.no_grad():
        whole, _ = policy.loss(batch, noise)
        again, _ = policy.loss(batch, noise)
        expect(tuple(whole.shape) == (4,), f"loss of 4 samples has shape {tuple(whole.shape)}")
        expect(bool(torch.isfinite(whole).all()), "the loss is not finite")
        expect(torch.equal(whole, again), "equal noise gives another loss")
        halves = [policy.loss(_rows(batch, s), _rows(noise, s))[0] for s in (slice(0, 2), slice(2, 4))]
        expect(_close(torch.cat(halves), whole), "halves of a batch have another loss than the whole")


@rule
def check_optimizer_groups(policy: Policy) -> None:
    """``optim_groups`` lists every trainable parameter exactly once."""
    listed = [id(p) for g in policy.optim_groups(1e-4, 1e-3) for p in g["params"]]
    want = {id(p) for p in policy.parameters() if p.requires_grad}
    expect(len(listed) == len(set(listed)), "a parameter is in two optimiser groups")
    expect(set(listed) == want, f"{len(want - set(listed))} trainable parameters are in no optimiser group")


@rule
def check_save_load(policy: Policy) -> None:
    """A saved policy loads to the same chunks, bit for bit, with its configuration, specs and statistics."""
    obs = random_observation(policy, 2)
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_policy(save_policy(policy, Path(folder) / "policy"), policy.device)
    expect(not loaded.training, "load_policy must give a policy in evaluation mode")
    same = np.array_equal(_act(policy, obs, keys(2)).actions, _act(loaded, obs, keys(2)).actions)
    expect(same, "the loaded policy acts differently")
    for name in ("config", "observation_spec", "action_spec", "stats", "caps"):
        expect(getattr(loaded, name) == getattr(policy, name), f"{name} did not survive saving")


# -------------------------------------------------------------------------------------------------- helpers


def _act(policy: Policy, *args: Any, **kwargs: Any) -> ActionChunk:
    """``act`` as the first plan of new episodes, which is what rules compare."""
    policy.reset()
    chunk = policy.act(*args, **kwargs)
    policy.reset()
    return chunk


def _chained(plans: list) -> Any:  # type: ignore[type-arg]
    """Observations ``(B, ...)`` of successive plans as rows of chains, ``(B * plans, ...)``."""
    if isinstance(plans[0], Tensor):
        return torch.stack(plans, 1).flatten(0, 1)
    return np.stack(plans, 1).reshape(-1, *plans[0].shape[1:])


def _tensors(policy: Policy, batch: int, seed: int = 0) -> dict[str, Any]:
    """Observations as tensors; sentences stay as they are."""
    arrays = random_observation(policy, batch, seed)
    return {k: v if v.dtype == object else torch.from_numpy(v) for k, v in arrays.items()}


def _rows(table: dict, rows: slice) -> dict:  # type: ignore[type-arg]
    return {k: v[rows] for k, v in table.items()}


def _close(a: Tensor, b: Tensor) -> bool:
    return bool(torch.allclose(a, b, atol=BATCH_TOLERANCE, rtol=1e-4))


@contextmanager
def _counted(module: nn.Module) -> Iterator[list[None]]:
    calls: list[None] = []
    hook = module.register_forward_hook(lambda *_: calls.append(None))
    try:
        yield calls
    finally:
        hook.remove()
