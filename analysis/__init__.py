"""Turns the records of a grid into tables, figures and a report.

Its rooms, each of which may import only those before it: inference, reading, rendering, sections; then `report` and the
command line. From `harness` and `launch` they import only torch-free rooms.
"""
