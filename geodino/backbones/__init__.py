"""Backbones: where they come from, what they are made of, and how their input is normalised."""
