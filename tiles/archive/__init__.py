"""A tile set on disk: shards, their index, and what is asked of them."""
