"""Renders tables, figures and pictures, whatever their content.

Imports reading.
"""

from analysis.rendering.tables import Column, Table

__all__ = ["Column", "Table"]
