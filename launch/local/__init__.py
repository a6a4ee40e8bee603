"""This machine without a scheduler: a bounded queue of submitit's local jobs, or one cell alone.

Imports planning and tracking.
"""
