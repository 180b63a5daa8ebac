"""Where else does it look like this: in one scene, and among many."""
