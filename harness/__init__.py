"""The experiment: what a cell is, and how one is computed and measured on one rank.

Its rooms, in the order in which they may import each other: config, records, implicit and physics, data and models,
measure, training, run, commands. Imports neither `launch` nor `analysis`.
"""
