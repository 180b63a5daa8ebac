"""The map in the browser: its component, layers, tiles and pictures."""
