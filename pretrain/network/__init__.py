"""The network that is trained: a backbone of the DINO family with its heads, and how its first layer begins."""
