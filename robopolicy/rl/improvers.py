"""Fine-tuning methods by name; each is imported when first asked for (no torch here: the command line reads it)."""

from __future__ import annotations

from robopolicy.core.improver import IMPROVERS, ImproverKind

IMPROVERS.add("dsrl", ImproverKind("robopolicy.rl.dsrl_config:DSRLConfig", "robopolicy.rl.dsrl:build"))
IMPROVERS.add("pa_rl", ImproverKind("robopolicy.rl.pa_rl_config:PARLConfig", "robopolicy.rl.pa_rl:build"))
