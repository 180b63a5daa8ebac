"""Change between dates: alignment, radiometry, distances, thresholds, objects and series of dates."""
