"""Labelled pixels of a scene from points, polygons, tables or a raster, in any coordinate reference system."""

from geodino.heads.labels.reading import MOST_PIXELS_PER_CLASS, Labels, check_reading, read_labels

__all__ = ["MOST_PIXELS_PER_CLASS", "Labels", "check_reading", "read_labels"]
