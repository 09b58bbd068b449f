"""robopolicy: diffusion, flow and energy-based visuomotor policies, from dataset to simulation to a Franka arm."""

__version__ = "0.1.0"
