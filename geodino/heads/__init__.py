"""What all heads on frozen features share: labels, samples, linear models, validation and refined borders."""
