"""Land-cover maps from frozen features: labels, heads, clusters, refinement, validation, model files."""
