"""Observation encoders: dict of keys in, ``Features`` out."""
