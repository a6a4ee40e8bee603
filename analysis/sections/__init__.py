"""The parts of a report: each owns its frame, its table, its figures and its words.

Imports reading and rendering.
"""
