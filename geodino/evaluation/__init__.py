"""Measuring backbones: data sets, floors, kNN, linear and segmentation probes, intervals, tables and pictures."""
