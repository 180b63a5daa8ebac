"""Rasters to tiles and back: scenes, sensors, grids, cutting, shards, stitching and Cloud-Optimized GeoTIFFs.

This room knows nothing of models: it imports no torch and none of the other rooms.
"""
