"""Inpainting as a package of one's own: a forward operator, a map, a backprop method, a metric and a baseline."""
