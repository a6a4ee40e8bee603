"""From a grid to finished cells: planning, pricing, jobs on Slurm or on this machine, and watching them.

Its rooms, each of which may import only those before it: planning, pricing, slurm, tracking, local. From `harness` they
import only the torch-free rooms config and records; the code that runs a cell imports `harness.run` inside the job.
"""
