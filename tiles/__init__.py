"""Rasters to tiles and back: scenes, sensors, grids, cutting, shards, stitching and Cloud-Optimized GeoTIFFs.

This package knows nothing of models: it imports no torch (but where a torchgeo data set is opened) and none of the others.
"""
