"""Self-supervised training of DINO, DINOv2 and DINOv3 backbones on an archive of tiles."""
