"""DSRL claims: a policy trained on too few demonstrations, steered to a success of 0.9 or at least 0.3 higher.

  python benchmarks/dsrl.py run --base diffusion=RUN --base flow=RUN --env panda_lift --max-env-steps 60000 --out DIR \\
    [-- --dsrl.utd 3 ...]                         what comes after -- are options of every robopolicy finetune
  python benchmarks/dsrl.py gather DIR --out docs/results/dsrl.json
  python benchmarks/dsrl.py page docs/results/dsrl.json --out docs/results/dsrl.md

Three seeds, both variants, both bases; ``run`` goes on where it stopped (see ``finetune_study``).
"""

from __future__ import annotations

from dsrl_page import write_page
from finetune_study import Method, study

PRESET = "configs/finetune/dsrl.yaml"
METHODS = {
    "dsrl-na": Method(PRESET, ("--dsrl.variant", "na")),
    "dsrl-sac": Method(PRESET, ("--dsrl.variant", "sac")),
}

if __name__ == "__main__":
    study(__doc__, METHODS, write_page)
