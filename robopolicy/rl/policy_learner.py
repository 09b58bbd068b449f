"""Critics of a policy that has no density: Cal-QL, and RLPD's plain temporal differences, with actions given.

Sources: Cal-QL (Nakamoto et al. 2023, arXiv 2303.05479) as PA-RL (Sobol Mark et al. 2024, arXiv 2412.06685) trains it,
the actions of its optimised policy in the place of an actor's and the estimator without densities; RLPD (Ball et al.
2023, arXiv 2302.02948): no regulariser, LayerNorm, the minimum over two of ten members.
Differs: how often an action of the policy stands in the list is the caller's business; PA-RL's code puts ten copies of
one action there, which is worth a warning (``coinciding``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from robopolicy.core.errors import MissingLogProb, PolicyInterfaceError
from robopolicy.rl.critic import Critic
from robopolicy.rl.learner import ConservativeLearner, IQLLearner, Learner, Noise
from robopolicy.rl.transitions import NEXT

POLICY_ACTION = "policy_action"
SAME = 1e-6


class PolicyLearner(ConservativeLearner):
    """Trains a critic by actions that come with the batch: ``policy_action`` and ``next.policy_action``.

    Both are ``(B, n, k, D)`` in the critic's model space; the first is not read when nothing is regularised.
    """

    def __init__(self, critic: Critic) -> None:
        """Raises ``MissingLogProb`` for a regulariser that weighs by densities."""
        super().__init__(critic)
        config = critic.config
        if config.alpha > 0 and config.cal_ql.estimator == "importance":
            raise MissingLogProb(
                "importance weights need log pi of the actions, which a generative head does not give; set "
                "cal_ql.estimator to no_importance"
            )

    @staticmethod
    def of(critic: Critic) -> Learner:
        """The learner of a critic that learns from a policy's actions; IQL asks for none and stays as it is."""
        return IQLLearner(critic) if critic.config.type == "iql" else PolicyLearner(critic)

    def forward(self, batch: Mapping[str, Any], noise: Noise) -> Tensor:
        """Per-sample losses ``(B,)``: the error of Q and ``alpha`` times the regulariser."""
        critic, alpha = self.critic, self.critic.config.alpha
        features = critic.newest.encode(self._inputs(batch), self._crops(noise))
        following = self._given(batch, NEXT)
        with torch.no_grad():
            slow_ahead = critic.slow.encode(self._inputs(batch, NEXT), self._crops(noise, NEXT))
            target = self._target(batch, slow_ahead, following, noise)
        asked = [self._actions(batch)]
        if alpha > 0:
            proposed = self._given(batch)
            asked += [self._uniform(noise), proposed, following]
        raw = critic.raw_q(features, torch.cat(asked, dim=1))
        loss = self._q_loss(raw[:, :, 0], target)
        if alpha > 0:
            loss = loss + alpha * self._regulariser(batch, raw, (None, None), (proposed.shape[1], following.shape[1]))
        return loss

    def _given(self, batch: Mapping[str, Any], prefix: str = "") -> Tensor:
        key = prefix + POLICY_ACTION
        if key not in batch:
            raise PolicyInterfaceError(f"the batch has no '{key}': this critic learns from a policy's actions")
        return self.critic.flat(batch[key])


def coinciding(actions: Tensor) -> bool:
    """Whether several actions ``(B, n, k, D)`` are one and the same in every row: a regulariser then counts copies."""
    if actions.shape[1] < 2:
        return False
    return bool(((actions.amax(1) - actions.amin(1)) < SAME).all())
