"""From tiles to batches of crops and masks."""
