"""Runs cells on this machine without a scheduler: a bounded queue of submitit's local jobs, or a single cell.

Imports planning and tracking.
"""
