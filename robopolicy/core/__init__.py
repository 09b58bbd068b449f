"""Contracts shared by every room: specs, chunks, errors, the policy interface, seeds, safe files (no torch)."""
