"""Samplers by name, as configurations write them."""

from __future__ import annotations

from typing import Any

from robopolicy.core.errors import ConfigError
from robopolicy.core.registry import Registry
from robopolicy.samplers.base import Sampler

SAMPLERS = Registry("sampler")
SAMPLERS.add("ddpm", "robopolicy.samplers.ddpm:DDPM")
SAMPLERS.add("ddim", "robopolicy.samplers.ddim:DDIM")
SAMPLERS.add("dpmpp_2m", "robopolicy.samplers.dpmpp_2m:DPMpp2M")
SAMPLERS.add("heun", "robopolicy.samplers.heun:Heun")
SAMPLERS.add("euler", "robopolicy.samplers.euler:Euler")
SAMPLERS.add("midpoint", "robopolicy.samplers.runge_kutta:Midpoint")
SAMPLERS.add("trapezoid", "robopolicy.samplers.runge_kutta:Trapezoid")
SAMPLERS.add("rk4", "robopolicy.samplers.runge_kutta:RungeKutta4")
SAMPLERS.add("dpm2", "robopolicy.samplers.dpm2:DPM2")
SAMPLERS.add("dpmpp_2s", "robopolicy.samplers.dpmpp_2s:DPMpp2S")
SAMPLERS.add("lms", "robopolicy.samplers.lms:LMS")
SAMPLERS.add("renoise", "robopolicy.samplers.renoise:Renoise")
SAMPLERS.add("ancestral", "robopolicy.samplers.ancestral:Ancestral")


def make_sampler(name: str, **options: Any) -> Sampler:
    """Sampler by name, e.g. ``make_sampler("ddim", eta=0.0)``; ``ConfigError`` for unknown names or options."""
    kind = SAMPLERS.get(name)
    try:
        sampler: Sampler = kind(**options)
    except TypeError as e:
        raise ConfigError(f"sampler '{name}' does not take these options: {e}") from e
    return sampler
