"""Forward operators A of d = A x + noise, one file per family: A, its adjoint, its inverse and its proximal operator.

This room needs only torch and imports no other room.
"""

from harness.physics.base import Physics, observe
from harness.physics.blur import GaussianBlur

__all__ = ["GaussianBlur", "Physics", "observe"]
