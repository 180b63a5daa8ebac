"""Rasters to tiles and back: scenes, sensors, grids, cutting, shards, stitching and Cloud-Optimized GeoTIFFs.

This package knows nothing of models: it imports none of the others, and no torch unless a torchgeo data set is opened.
"""
