"""The training run: network, teachers, optimiser, checkpoints, processes."""
