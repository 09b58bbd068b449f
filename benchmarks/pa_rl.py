"""PA-RL claims: the same bases improved offline and online, against behaviour cloning continued on the same data.

  python benchmarks/pa_rl.py run --base diffusion=RUN --offline diffusion=DATA --base flow=RUN --offline flow=DATA \\
    --env panda_lift --max-env-steps 60000 --out DIR [-- --pa_rl.num_samples 16 ...]
  python benchmarks/pa_rl.py gather DIR --out docs/results/pa_rl.json
  python benchmarks/pa_rl.py page docs/results/pa_rl.json --out docs/results/pa_rl.md

Three seeds; ``run`` goes on where it stopped (see ``finetune_study``).  ``--of pa_rl "--pa_rl.keep 5"`` gives options
to one of the two methods.
"""

from __future__ import annotations

from finetune_study import Method, study
from pa_rl_page import write_page

METHODS = {
    "pa_rl": Method("configs/finetune/pa_rl.yaml"),
    "bc_continued": Method("configs/finetune/bc_continued.yaml"),
}

if __name__ == "__main__":
    study(__doc__, METHODS, write_page)
