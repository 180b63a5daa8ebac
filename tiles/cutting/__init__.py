"""Cutting scenes into a tile set: what is to be done, and doing it."""
