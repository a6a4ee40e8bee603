"""What a user types after `python -m harness`: reconstruct, score and bench.

Imports every room.
"""
