"""What is watched beside the losses."""
