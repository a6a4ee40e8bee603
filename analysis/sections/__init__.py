"""The sections of a report: each owns its frame, its table, its figures and its words.

Imports inference, reading and rendering. A new section is one new module here and one line below.
"""

from analysis.rendering.section import SectionMaker
from analysis.sections import (
    accuracy,
    all_pictures,
    budgets,
    cost,
    curves,
    fidelity,
    paper,
    price,
    scaling,
    scaling_model,
    schedules,
    searches,
    time_to_target,
    timing,
)

SECTIONS: tuple[SectionMaker, ...] = (
    accuracy.section,
    schedules.section,
    all_pictures.section,
    paper.section,
    cost.section,
    timing.section,
    budgets.section,
    time_to_target.section,
    fidelity.contraction_section,
    fidelity.gradient_section,
    scaling.section,
    scaling_model.section,
    price.section,
    curves.section,
    searches.section,
)
"""In the order of the report."""
