"""The grids that are shipped with the package."""
