"""The grids that come with the package."""
