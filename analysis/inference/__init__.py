"""Statistical inference: contrasts with the seed as the unit, families of contrasts, and times that may be censored.

Pure functions on arrays and frames; imports no other room.
"""

from analysis.inference.contrasts import Contrast, paired_contrast, seeds_needed
from analysis.inference.families import holm, with_holm
from analysis.inference.ratios import bootstrap_ratio
from analysis.inference.times import TimeToTarget, performance_profile, time_to_target

__all__ = [
    "Contrast",
    "TimeToTarget",
    "bootstrap_ratio",
    "holm",
    "paired_contrast",
    "performance_profile",
    "seeds_needed",
    "time_to_target",
    "with_holm",
]
