"""How tables, figures and pictures are shown, whatever they show.

Imports reading.
"""

from analysis.rendering.tables import Column, Table

__all__ = ["Column", "Table"]
