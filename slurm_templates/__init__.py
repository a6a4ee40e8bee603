"""Cluster profiles that people copy and edit; a package so that an installed wheel finds them too."""
