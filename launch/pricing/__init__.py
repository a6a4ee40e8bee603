"""What a plan costs before it runs, learned from finished cells.

Imports planning.
"""

from launch.pricing.timing import Shape, Timing

__all__ = [
    "Shape",
    "Timing",
]
