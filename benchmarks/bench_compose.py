"""One chunk of two composed policies against one chunk of one of them: PushT-size states, U-Nets of 4.2 M, batch 1.

In the rows, "ours" is one parent alone and "theirs" the composition, so the ratio is its cost in parents: 2 is free of
overhead.  The rows "beside its parents" have all parents one after another as "ours": what is above 1 there is what
composing itself costs, the rest of the first rows is two networks in one cache.  Encodings are counted by hooks on the
encoders: one a parent and chunk.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from common import arguments, duel, finish
from pairs import SIZES, random_batch, spec, statistics

from robopolicy.core.specs import ActionSpace
from robopolicy.policies.backbone_config import UnetConfig
from robopolicy.policies.base import Policy
from robopolicy.policies.diffusion_config import DiffusionConfig
from robopolicy.policies.flow_config import FlowConfig
from robopolicy.policies.registry import make_policy
from robopolicy.wrappers.compose import ComposedPolicy

STEPS = 10
KEYS = [(0, 0)]


def parent(kind: str, seed: int) -> Policy:
    """A head with the U-Net of 4.2 M parameters on PushT's state and keypoints."""
    torch.manual_seed(seed)
    unet = UnetConfig(down_dims=SIZES["4M"], step_embed_dim=128)
    config: Any = {"diffusion": DiffusionConfig, "flow": FlowConfig}[kind](unet=unet, num_inference_steps=STEPS)
    observation_spec = spec(images=False)
    return make_policy(config, observation_spec, ActionSpace(dim=2), 10.0, statistics(observation_spec, 2)).eval()


def encodings(policies: list[Policy], run: Any) -> int:
    """How often ``run`` calls the policies' encoders."""
    calls: list[None] = []
    hooks = [p.encoder.register_forward_hook(lambda *_: calls.append(None)) for p in policies]
    run()
    for hook in hooks:
        hook.remove()
    return len(calls)


def rows_of(name: str, kinds: tuple[str, ...], quick: bool) -> list[dict[str, Any]]:
    """Cost of a composition of ``kinds`` in chunks of its leader alone, and beside its parents one after another."""
    parents = [parent(kind, seed) for seed, kind in enumerate(kinds)]
    composed = ComposedPolicy(parents)
    leader = parents[composed.leader]
    batch = random_batch(spec(images=False), 1, 16, 2)
    obs: dict[str, np.ndarray] = {key: batch[key] for key in leader.observation_spec.keys}
    facts = {
        "parameters": [sum(p.numel() for p in one.parameters()) for one in parents],
        "encodings_a_chunk": encodings(parents, lambda: composed.act(obs, KEYS)),
        "network_queries": composed.denoiser_calls,
    }
    often: Any = {"rounds": 5 if quick else 40, "repeats": 3 if quick else 4}

    def apart() -> None:
        for one in parents:
            one.act(obs, KEYS)

    def together() -> None:
        composed.act(obs, KEYS)

    goal = "<= 2.1" if len(kinds) == 2 else "<= 3.15"
    return [
        duel(name, lambda: leader.act(obs, KEYS), together, goal=goal, **often, **facts),
        duel(f"{name}, beside its parents", apart, together, goal="<= 1.05", **often, **facts),
    ]


def main() -> None:
    args = arguments(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    rows = [
        *rows_of("diffusion + diffusion, DDIM-10", ("diffusion", "diffusion"), args.quick),
        *rows_of("diffusion + flow, DDIM-10", ("diffusion", "flow"), args.quick),
        *rows_of("diffusion + diffusion + flow, DDIM-10", ("diffusion", "diffusion", "flow"), args.quick),
    ]
    for r in rows[::2]:
        print(f"{r['name']}: {r['encodings_a_chunk']} encodings, {r['network_queries']} network queries a chunk")
    finish(rows, args.out)


if __name__ == "__main__":
    main()
