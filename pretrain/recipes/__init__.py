"""Recipes: everything that a training run is told."""
