"""From a grid to finished cells: planning, pricing, jobs on Slurm or on this machine, and watching them.

Its rooms, in the order in which they may import each other: planning, pricing, slurm, tracking, local. Imports of
`harness` only the torch-free rooms config and records; what runs a cell imports `harness.run` inside the job.
"""
