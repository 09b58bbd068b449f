"""Gaussian paths and the one table of conversions between network outputs."""

from robopolicy.paths.base import GaussianPath
from robopolicy.paths.convert import Kind, canonical, carry_state, target, to_edm_coords, to_model_coords, to_x0_eps
from robopolicy.paths.linear import LinearFlow
from robopolicy.paths.none import NoPath
from robopolicy.paths.per_channel import PerChannel
from robopolicy.paths.ve import VE
from robopolicy.paths.vp import VPDiscrete

__all__ = [
    "VE",
    "GaussianPath",
    "Kind",
    "LinearFlow",
    "NoPath",
    "PerChannel",
    "VPDiscrete",
    "canonical",
    "carry_state",
    "target",
    "to_edm_coords",
    "to_model_coords",
    "to_x0_eps",
]
