"""From the records of a grid to tables, figures and a report.

Its rooms, in the order in which they may import each other: reading, rendering, sections; then `report` and the command
line. Imports of `harness` and `launch` the torch-free rooms only.
"""
