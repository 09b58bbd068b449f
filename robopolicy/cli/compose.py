"""Compose trained policies: search the weights of their scores, report on episodes the search never saw.

    robopolicy compose runs/diffusion runs/flow --env panda_push --out runs/both/composed.yaml
    robopolicy compose runs/rgb runs/depth --env panda_push --search halving --out runs/both/composed.yaml
    robopolicy evaluate runs/both/composed.yaml --episodes 500

Policies are runs, checkpoints, policy directories, other YAML files, or lerobot:PATH_OR_HUB_ID.  Heads, backbones,
steps and cameras may differ; actions, their scaling and rate, and n_obs_steps may not (one line says what does).

  grid      every weight, --search-episodes each (the method's paper; for more than two parents quarters)
  halving   half of the episodes for all, then all for the better half, then twice as many for half of those
  golden    golden section, as if success had one maximum in the weight (two parents)
  gram      from the parents' errors on demonstrations, in seconds; a guess, reported like the others

Choosing and reporting use different episodes, and that is checked.  The best of many cells is partly lucky: with 100
episodes, success 0.5 and nine equally good weights the best of them looks 0.07 better than it is.  Only the report
says what the choice is worth, against each parent on the same seeds; 200 episodes show differences of about 0.10.

Beside composed.yaml lie composed.json (every cell with n, outcomes, interval), .md with .png, and .cells/: stop when
you like, the same command goes on.  If the data the parents learned from is here (or --data), the correlation of their
errors is told too: parents near 1 have little to give each other.

exit codes: 0 done, 1 done but episodes were lost to simulator errors, 2 wrong input
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robopolicy.core.errors import ConfigError

if TYPE_CHECKING:
    from robopolicy.evaluation.weight_search_run import Team
    from robopolicy.policies.acting import Acting
    from robopolicy.sim.registry import EnvConfig

TAKES_REST = True


def numbers(text: str) -> tuple[float, ...]:
    """``0,0.5,1``."""
    try:
        return tuple(float(part) for part in text.split(",") if part)
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"expected numbers with commas between, got '{text}'") from e


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; ``--env.NAME`` and ``--sampler.NAME`` are read from the rest."""
    parser.usage = "robopolicy compose POLICY POLICY ... --out YAML [options] [--env.NAME VALUE] [--sampler.NAME VALUE]"
    add = parser.add_argument
    add("policies", metavar="POLICY", nargs="+", help="two or more")
    add("--out", type=Path, required=True, metavar="YAML", help="file of the composition")
    add("--env", metavar="E", help="environment (default: the first run's); --env.NAME sets its options")
    add("--search", default="grid", metavar="S", help="grid, halving, golden or gram (default grid)")
    add("--weights", type=numbers, metavar="W", help="values a weight may take, 0,0.5,1 (of two: the first's)")
    add("--search-episodes", type=int, default=50, metavar="N", help="episodes a candidate (default 50)")
    add("--search-seed", type=int, default=200_000, metavar="N", help="first search seed (default 200000)")
    add("--report-episodes", type=int, default=200, metavar="N", help="episodes of the report (default 200)")
    add("--report-seed", type=int, default=100_000, metavar="N", help="first report seed (default 100000)")
    add("--data", metavar="D", help="demonstrations (default: what the first run held out)")
    add("--windows", type=int, default=256, metavar="N", help="windows of them looked at (default 256)")
    add("--leader", type=int, metavar="I", help="whose grid and sampler; --sampler.NAME sets its options")
    add("--operator", default="convex", metavar="O", help="how scores are put together (default convex)")
    add("--n-action-steps", type=int, metavar="N", help="executed a chunk (default: the least)")
    add("--same-task", action="store_true", help="compose policies of different goals or sentences")
    add("--workers", type=int, default=2, metavar="N", help="simulator processes; 0 = in this one")
    add("--slots", type=int, default=16, metavar="N", help="episodes in flight (default 16)")
    add("--timeout", type=float, default=120.0, metavar="S", help="seconds a chunk may simulate")
    add("--device", default="cpu", metavar="D", help="cpu or cuda (default cpu)")
    add("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Search, report, write; returns the exit code."""
    from robopolicy.cli.evaluate import rest_options
    from robopolicy.core.configs import build_config
    from robopolicy.evaluation.weight_search_config import SearchConfig
    from robopolicy.evaluation.weight_search_files import summary, write_files
    from robopolicy.evaluation.weight_search_run import SearchRun, even

    env_options, sampler = rest_options(args.rest, "compose")
    if len(args.policies) < 2:
        raise ConfigError(f"compose needs two policies or more, got {args.policies[0]}")
    if args.out.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--out {args.out}: the composition is a YAML file; name it {args.out.name}.yaml")
    names = ("search_episodes", "search_seed", "report_episodes", "report_seed", "weights", "slots", "workers")
    settings = {name: getattr(args, name) for name in names}
    config = build_config(SearchConfig, {"method": args.search, "timeout_s": args.timeout, **settings}, "compose")
    config.candidates(len(args.policies))
    env = chosen_env(args, env_options)
    team, sources = assemble(args, env, sampler)
    team.composed(even(len(sources)))  # what does not fit is told before anything runs
    gram, data = errors_on_demonstrations(args, team)
    search_run = SearchRun(team, env, config, args.out, gram, progress=not args.quiet)
    found = search_run.run()
    record = write_files(search_run, found, sources, data)
    print("\n".join(summary(record)))
    print(f"composition {args.out}, page {args.out.with_suffix('.md')}")
    return 1 if any(cell["errors"] for cell in (*record["search"], *record["report"])) else 0


def chosen_env(args: argparse.Namespace, options: dict[str, Any]) -> EnvConfig:
    """The environment named, with the options of the first policy's run if it is the same one."""
    from robopolicy.api import find_policy
    from robopolicy.cli.evaluate import choose_env

    return choose_env(args.env, options, find_policy(args.policies[0]))


def assemble(args: argparse.Namespace, env: EnvConfig, sampler: dict[str, Any]) -> tuple[Team, list[Any]]:
    """The parents, loaded, and how the YAML file names them."""
    from robopolicy.evaluation.weight_search_run import Team
    from robopolicy.nesting import LEROBOT, Place, load_source, written_source

    fps = None
    if any(p.startswith(LEROBOT) for p in args.policies):  # their checkpoints do not state it
        made = env.make()
        fps = made.fps
        made.close()
    parents: list[Acting] = [load_source(p, Place(Path()), args.device, fps) for p in args.policies]
    origins = [str(getattr(parent, "origin")) for parent in parents]  # noqa: B009
    sources: list[Any] = [written_source(origin, args.out.parent) for origin in origins]
    for i, origin in enumerate(origins):
        if origin.startswith(LEROBOT):
            sources[i] = {"type": "lerobot", "path": sources[i].removeprefix(LEROBOT), "fps": fps}
    options = {
        "leader": args.leader,
        "operator": args.operator,
        "n_action_steps": args.n_action_steps,
        "same_task": args.same_task,
    }
    return Team(parents, origins, options, sampler), sources


def errors_on_demonstrations(args: argparse.Namespace, team: Team) -> tuple[Any, dict[str, Any] | None]:
    """The parents' Gram matrix and what it was measured on, or nothing where there is no data."""
    from tqdm import tqdm

    from robopolicy.evaluation.weight_search_data import demonstrations
    from robopolicy.evaluation.weight_search_gram import measurable, measure_gram
    from robopolicy.evaluation.weight_search_run import even
    from robopolicy.nesting_env import run_directory

    policy = team.composed(even(len(team.parents)))
    if args.search != "gram" and not measurable(policy):
        return None, None
    found = demonstrations(policy, args.data, [run_directory(name) for name in team.names])
    if found is None:
        return None, None
    windows, told = found
    with tqdm(desc="demonstrations", total=min(args.windows, len(windows)), disable=args.quiet) as bar:
        gram = measure_gram(policy, windows, args.windows, progress=bar.update)
    return gram, told
