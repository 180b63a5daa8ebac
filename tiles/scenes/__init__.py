"""Scenes: what a raster file, a folder of bands or a STAC item says, and its pixels in windows."""
