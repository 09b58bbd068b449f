"""The denoising network alone: one step and one training step against LeRobot's U-Net with the same weights.

Parity comes first: outputs must agree within 1e-5 in float32 before anything is timed.  `step` rows time one call of
the network at inference (ours: `forward_cached`, as the policies use it); `train` rows time forward, mean squared
error and backward.  Action dimension 7, condition 132, horizon 16, step embedding 128.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from common import arguments, duel, finish
from lerobot_weights import unet_state_dict
from torch import Tensor, nn

from robopolicy.nets.unet1d import ConditionalUnet1d

SIZES = {"4M": (64, 128, 256), "17M": (128, 256, 512), "65M": (256, 512, 1024)}
ACTION, CONDITION, HORIZON, EMBEDDING = 7, 132, 16, 128


def make_pair(dims: tuple[int, ...]) -> tuple[ConditionalUnet1d, nn.Module]:
    """Both networks with LeRobot's initial weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lerobot.policies.diffusion.modeling_diffusion import DiffusionConditionalUnet1d
    torch.manual_seed(0)
    config: Any = SimpleNamespace(
        diffusion_step_embed_dim=EMBEDDING,
        action_feature=SimpleNamespace(shape=(ACTION,)),
        down_dims=dims,
        kernel_size=5,
        n_groups=8,
        use_film_scale_modulation=True,
    )
    theirs = DiffusionConditionalUnet1d(config, CONDITION).eval()
    ours = ConditionalUnet1d(ACTION, CONDITION, dims, step_embed_dim=EMBEDDING).eval()
    ours.load_state_dict(unet_state_dict(theirs.state_dict()))
    return ours, theirs


def batch(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy chunks, times, conditions."""
    return torch.randn(n, HORIZON, ACTION), torch.full((n,), 50), torch.randn(n, CONDITION)


def step_rows(name: str, dims: tuple[int, ...], sizes: list[int], rounds: int) -> Iterator[dict[str, Any]]:
    """One denoising step in float32 and with bfloat16 weights."""
    ours, theirs = make_pair(dims)
    times = torch.arange(90, -1, -10)
    facts = {"parameters": sum(p.numel() for p in ours.parameters())}
    with torch.inference_mode():
        for n in sizes:
            x, t, cond = batch(n)
            want = theirs(x, t, cond)
            for dtype, goal, bound in (
                (torch.float32, ">= 2.0 at batch 1, never < 1", 1e-5),
                (torch.bfloat16, "", 0.05),
            ):
                ours.inference_dtype = dtype
                cache = ours.prepare(cond, times)
                error = float((ours.forward_cached(x, 4, cache) - want).abs().max())
                if error > bound:
                    raise SystemExit(f"{name} batch {n} {dtype}: outputs differ by {error:.1e}, more than {bound}")
                kind = "fp32" if dtype == torch.float32 else "bf16 weights"
                yield duel(
                    f"step {name} batch {n} {kind}",
                    lambda c=cache, x=x: ours.forward_cached(x, 4, c),
                    lambda x=x, t=t, cond=cond: theirs(x, t, cond),
                    rounds,
                    goal=goal,
                    max_difference=error,
                    **facts,
                )


def train_rows(name: str, dims: tuple[int, ...], sizes: list[int], rounds: int) -> Iterator[dict[str, Any]]:
    """Forward and backward in float32 and under bfloat16 autocast (both sides alike)."""
    ours, theirs = make_pair(dims)
    ours.train(), theirs.train()
    for n in sizes:
        x, t, cond = batch(n)
        target = torch.randn_like(x)
        for low in (False, True):

            def run(net: nn.Module, low: bool = low, inputs: tuple[Tensor, ...] = (x, t, cond, target)) -> None:
                x, t, cond, target = inputs
                cast: AbstractContextManager[Any] = torch.autocast("cpu", torch.bfloat16) if low else nullcontext()
                for p in net.parameters():
                    p.grad = None
                with cast:
                    out = net(x, t, cond)
                (out.float() - target).square().mean().backward()

            step: Callable[[nn.Module], None] = run
            yield duel(
                f"train {name} batch {n} {'bf16 autocast' if low else 'fp32'}",
                lambda step=step: step(ours),
                lambda step=step: step(theirs),
                rounds,
                repeats=1,
                goal=">= 1.1",
            )


def main() -> None:
    """Run the duels asked for."""
    parser = arguments(__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["17M", "65M"], help="networks for `step`")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16], help="batch sizes for `step`")
    parser.add_argument("--train-sizes", nargs="*", choices=SIZES, default=["4M"], help="networks for `train`")
    parser.add_argument("--train-batches", nargs="+", type=int, default=[64, 256], help="batch sizes for `train`")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rounds, rows = (3 if args.quick else 9), []
    for name in args.sizes:
        rows += list(step_rows(name, SIZES[name], args.batches, rounds))
    for name in args.train_sizes:
        rows += list(train_rows(name, SIZES[name], args.train_batches, rounds))
    finish(rows, args.out, threads=args.threads)
    for r in rows:
        print(f"{r['name']:<46} ratio of CPU time {r['ratio_cpu']:.2f}")


if __name__ == "__main__":
    main()
