"""The effect of the learning-rate schedule: one row per model and settings, one column per schedule (section 8)."""

from functools import cache
from typing import Any

import pandas as pd

from analysis.reading import conditions as context
from analysis.reading.load import GridData
from analysis.rendering.section import Section
from analysis.rendering.tables import Column, Table
from analysis.sections.accuracy import accuracy_frame


@cache
def schedule_frame(data: GridData) -> pd.DataFrame:
    """One row for each model and settings that were trained with more than one schedule.

    If a schedule was used with several parameters, the version that is best on validation pictures counts.
    """
    accuracy = accuracy_frame(data)
    trained = accuracy[accuracy["group"] == "train"] if len(accuracy) else accuracy
    if trained.empty:
        return pd.DataFrame()
    settings = {field.rpartition(".")[2] for config in data.configs.values() for field in config if _is_setting(field)}
    alike = data.cells.drop_duplicates("method").set_index("method")["any_schedule"]
    rows = []
    for _, found in trained.groupby(trained["method"].map(alike), sort=False):
        best = found.sort_values("validation_psnr").drop_duplicates("schedule", keep="last")
        if len(best) > 1:
            rows.append(_row(best.sort_index(), settings))
    return pd.DataFrame(rows)


def section(data: GridData) -> Section:
    """The effect of the schedule, for grids that have several."""
    return Section("Learning-rate schedules", schedule_table(data))


def schedule_table(data: GridData) -> Table:
    """The table of schedules."""
    frame = schedule_frame(data)
    names = [column.removesuffix("_psnr") for column in frame.columns if column.endswith("_psnr")]
    columns = (
        Column("label", "Method", rank=1),
        *(Column(f"{name}_psnr", f"{name}: PSNR, dB", ".2f", (f"{name}_std",), best="max", rank=2) for name in names),
        Column("spread", "Best less worst, dB", ".2f", rank=3),
        Column("seed_count", "Seeds", "d", rank=4),
    )
    notes = [
        "a ± b is the mean and the standard deviation over seeds. Seeds is the number for the schedule with the "
        "fewest. If a schedule was used with several parameters, the version that is best on validation pictures "
        "counts.",
    ]
    caption, command = context.caption(data, data.trained), context.command(data.declared)
    return Table("schedules", "Learning-rate schedules", frame, columns, caption, command, notes)


def _row(schedules: pd.DataFrame, settings: set[str]) -> dict[str, Any]:
    """One model and settings; its name is that of the first schedule, without the words about the schedule."""
    first = schedules.iloc[0]
    words = [word for word in first["label"].split() if word.partition("=")[0] not in {first["schedule"], *settings}]
    row: dict[str, Any] = {
        "label": " ".join(words),
        "group": first["model"],
        "protocol": first["protocol"],
    }
    for one in schedules.to_dict("records"):
        row |= {f"{one['schedule']}_psnr": one["psnr"], f"{one['schedule']}_std": one["psnr_seed_std"]}
    return row | {
        "spread": schedules["psnr"].max() - schedules["psnr"].min(),
        "seed_count": int(schedules["seed_count"].min()),
    }


def _is_setting(field: str) -> bool:
    return field.startswith("schedule.") and field != "schedule.name"
