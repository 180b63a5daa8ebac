"""Dense features: a backbone over a scene of any size, as a stream of tokens, a store or a cube."""
