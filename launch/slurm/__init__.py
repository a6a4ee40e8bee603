"""A Slurm cluster: what it has, job arrays and their scripts, what was sent, and what runs inside a job.

Imports planning.
"""
