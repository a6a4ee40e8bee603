"""Estimates what a plan will cost before it runs, from finished cells.

Imports planning.
"""

from launch.pricing.timing import Shape, Timing

__all__ = [
    "Shape",
    "Timing",
]
