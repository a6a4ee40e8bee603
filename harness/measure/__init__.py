"""The measuring instruments: the clock, the cost of a gradient, scores, gradient fidelity and the device check.

Imports config, records, implicit, physics, data and models.
"""

from harness.measure.clock import Clock
from harness.measure.scores import Scores, evaluate

__all__ = ["Clock", "Scores", "evaluate"]
