"""What leaves beside the pixels: polygons, STAC items and tags."""
