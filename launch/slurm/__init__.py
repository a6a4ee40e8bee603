"""Slurm: what a cluster offers, job arrays and their scripts, submissions, and the code that runs inside a job.

Imports planning.
"""
