"""One update agrees with Stable-Baselines3 number for number: same weights, same batch, same noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robopolicy.rl.networks import EnsembleMLP
from robopolicy.rl.sac import SACBatch, SACLearner
from robopolicy.rl.sac_config import SACConfig

gym = pytest.importorskip("gymnasium")
sb3 = pytest.importorskip("stable_baselines3")
ROWS, OBS, ACTS, BOUND = 32, 3, 2, 2.0


class Nowhere(gym.Env):
    """Spaces only."""

    observation_space = gym.spaces.Box(-1, 1, (OBS,), np.float32)
    action_space = gym.spaces.Box(-BOUND, BOUND, (ACTS,), np.float32)

    def reset(self, *, seed=None, options=None):
        return np.zeros(OBS, np.float32), {}


def theirs(**options):
    """Their learner with an exact log-density, and a slow critic that differs from the newest."""
    model = sb3.SAC(
        "MlpPolicy", Nowhere(), batch_size=ROWS, learning_rate=1e-3, gamma=0.9, tau=0.01, seed=0, device="cpu",
        policy_kwargs={"net_arch": [16, 8]}, **options,
    )  # fmt: skip
    for p in model.critic_target.parameters():
        p.data += 0.03 * torch.randn_like(p)
    model.actor.action_dist.epsilon = 0.0  # otherwise 1e-6, inside the logarithm of 1 - tanh^2
    model.set_logger(sb3.common.logger.Logger(None, []))
    return model


def copy_linear(net: EnsembleMLP, layer: int, member: int, linears: list[torch.nn.Linear]) -> None:
    """One layer of one member from theirs; several side by side become one."""
    with torch.no_grad():
        net.layers[layer].weight[member] = torch.cat([x.weight for x in linears]).T
        net.layers[layer].bias[member] = torch.cat([x.bias for x in linears])[None]


def linears(module: torch.nn.Module) -> list[torch.nn.Linear]:
    return [m for m in module.modules() if isinstance(m, torch.nn.Linear)]


def ours(model, **options) -> SACLearner:
    """Our learner with their weights."""
    config = SACConfig(
        hidden=(16, 8), bound=BOUND, polyak=0.01, actor_lr=1e-3, critic_lr=1e-3, temperature_lr=1e-3, **options
    )
    sac = SACLearner(config, OBS, ACTS)
    first, second = linears(model.actor.latent_pi)
    for layer, parts in enumerate(([first], [second], [model.actor.mu, model.actor.log_std])):
        copy_linear(sac.actor.net, layer, 0, parts)
    for net, other in ((sac.critic, model.critic), (sac.slow, model.critic_target)):
        for member, q in enumerate(other.q_networks):
            for layer, linear in enumerate(linears(q)):
                copy_linear(net, layer, member, [linear])
    return sac


def fill(model, seed: int) -> SACBatch:
    """The same transitions in their replay and in our form; a third end, a third are cut by a time limit."""
    rng = np.random.default_rng(seed)
    seen, after = rng.standard_normal((2, ROWS, OBS)).astype(np.float32)
    boxed, reward = rng.uniform(-1, 1, (ROWS, ACTS)).astype(np.float32), rng.standard_normal(ROWS).astype(np.float32)
    ended, cut = np.arange(ROWS) % 3 == 0, np.arange(ROWS) % 3 == 1
    for i in range(ROWS):
        info = [{"TimeLimit.truncated": bool(cut[i])}]
        model.replay_buffer.add(seen[i], after[i], boxed[i], reward[i], np.array([ended[i] or cut[i]]), info)
    discount = np.where(ended, 0.0, 0.9).astype(np.float32)
    return SACBatch(*map(torch.from_numpy, (seen, after, boxed * BOUND, reward, discount)))


def train_theirs(model, monkeypatch: pytest.MonkeyPatch, noise: dict[str, torch.Tensor]) -> None:
    """Their update on all rows in order, with our noise in place of theirs."""
    buffer, drawn = model.replay_buffer, iter((noise["eps"], noise["eps_next"]))
    monkeypatch.setattr(type(buffer), "sample", lambda self, n, env=None: self._get_samples(np.arange(n), env))
    monkeypatch.setattr(torch.distributions.Normal, "rsample", lambda self, *_: self.loc + self.scale * next(drawn))
    model.train(1, ROWS)
    monkeypatch.undo()


@pytest.mark.parametrize("fixed", [None, 0.2])
def test_updates_agree_with_stable_baselines3_in_losses_gradients_and_weights(monkeypatch, fixed):
    model = theirs(buffer_size=ROWS, ent_coef="auto" if fixed is None else fixed)
    sac = ours(model, temperature=fixed)
    for update in range(3):
        batch, generator = fill(model, update), torch.Generator().manual_seed(update)
        noise = sac.draw_noise(ROWS, generator)
        train_theirs(model, monkeypatch, noise)
        told, logged = sac.step(batch, noise), model.logger.name_to_value
        for name, key in (("critic_loss", "critic_loss"), ("actor_loss", "actor_loss"), ("temperature", "ent_coef")):
            assert told[name] == pytest.approx(logged[f"train/{key}"], rel=1e-5, abs=1e-6), (update, name)
        compare(sac, model)


def moments(optimizer: torch.optim.Optimizer, p: torch.nn.Parameter) -> torch.Tensor:
    """Adam's running mean of the gradients: after one update a tenth of the gradient."""
    return optimizer.state[p]["exp_avg"]


def compare(sac: SACLearner, model) -> None:
    """Weights after an update, and gradients; Adam divides by gradients, so the tiniest may be told apart."""
    expected = ours(model, temperature=sac.config.temperature)
    for name, p in expected.named_parameters():
        if not name.startswith("temperature"):
            torch.testing.assert_close(sac.get_parameter(name), p, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: n + m)
    if sac.config.temperature is None:
        assert float(sac.temperature.log.detach()) == pytest.approx(model.log_ent_coef.item(), rel=1e-4)
    mine = sac.optimizers()
    nets = [(sac.critic, i, q, "critic", model.critic) for i, q in enumerate(model.critic.q_networks)]
    nets.append((sac.actor.net, 0, model.actor.latent_pi, "actor", model.actor))
    for net, member, other, name, owner in nets:
        for layer, linear in enumerate(linears(other)):
            got = moments(mine[name], net.layers[layer].weight)[member].T
            torch.testing.assert_close(got, moments(owner.optimizer, linear.weight), rtol=1e-4, atol=1e-6)
