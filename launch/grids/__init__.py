"""Named grids that come with the package."""
