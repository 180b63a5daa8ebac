"""Rasters that leave: stitched windows, Cloud-Optimized GeoTIFFs, and what of a long job is finished."""
