"""Cluster profiles to copy and edit. This is a package so that an installed wheel includes them."""
