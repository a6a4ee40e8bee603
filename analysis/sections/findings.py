"""States in sentences what a grid's numbers show. Every sentence is computed, and can also be negative."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from analysis.reading import conditions as context
from analysis.reading.load import GridData
from analysis.sections.accuracy import accuracy_frame
from analysis.sections.comparisons import compare, describe, interval
from analysis.sections.cost import NOT_INTERLEAVED, cost_frame
from analysis.sections.fidelity import contraction_frame, gradient_frame
from analysis.sections.searches import distinct_searches

Mark = Literal["yes", "no", "mixed", "note", "warning"]

TWINS = ((("de-grad", "de-hqs"), "weight of de-grad = 1 / penalty of de-hqs"),
         (("de-prox", "de-admm"), "step size of de-prox = penalty of de-admm"))  # fmt: skip
"""Pairs of maps that have the same fixed points, and under which condition; they differ in how they reach them."""


@dataclass(frozen=True)
class Finding:
    """One sentence of the summary."""

    mark: Mark
    text: str
    detail: str = ""
    """The numbers behind the sentence."""


HELD = 0.1
"""Decibels that a trained map may lose at ten times its training depth and still count as keeping its PSNR."""


def findings(data: GridData) -> list[Finding]:
    """All findings about a grid."""
    accuracy, cost = accuracy_frame(data), cost_frame(data)
    contraction, gradients = contraction_frame(data), gradient_frame(data)
    found = [_completeness(data)]
    if len(accuracy):
        trained = accuracy[accuracy["group"] == "train"]
        found += _against(trained, "gain", "end above their own step 0, the pretrained denoiser plugged in")
        found += _against(trained, "over_tikhonov", "beat Tikhonov")
        found += _against(trained, "over_tv", "beat total variation")
        found += [_best_jfb(trained), *_against_jfb(trained, cost), *_twins(data), *_solves(trained)]
    found += [*_contraction(contraction), *_gradients(gradients)]
    return [*found, *_skipped_steps(data), *_denoisers(data), *_searches(data), *_code(data), *_devices(data)]


def _completeness(data: GridData) -> Finding:
    total, done = len(data.cells), len(data.finished)
    if done == total:
        return Finding("yes", f"All {total} cells are finished.")
    states = ", ".join(f"{count} {state}" for state, count in data.missing["state"].value_counts(sort=False).items())
    return Finding("warning", f"{done} of {total} cells are finished; this report lacks the others ({states}).")


def _against(trained: pd.DataFrame, column: str, claim: str) -> Iterator[Finding]:
    """How many trained methods are better in a comparison, as the claim says."""
    compared = trained[trained[column].notna()] if column in trained else trained[:0]
    if compared.empty:
        yield Finding("note", f"It is unknown which trained methods {claim}: nothing to compare is finished.")
        return
    groups: dict[str, list[str]] = {"better": [], "worse": [], "equivalent": [], "undecided": []}
    for row in compared.to_dict("records"):
        groups[row[f"{column}_verdict"]].append(f"{row['label']} ({_shown(row, column)})")
    above, below = groups["better"], groups["worse"]
    named = {"Above": above, "Equivalent": groups["equivalent"], "Undecided": groups["undecided"], "Below": below}
    detail = " ".join(f"{place}: {', '.join(labels)}." for place, labels in named.items() if labels)
    mark: Mark = "yes" if len(above) == len(compared) else "mixed" if above or groups["undecided"] else "no"
    others = _counted({verdict: len(labels) for verdict, labels in groups.items() if verdict != "better"})
    yield Finding(mark, f"{len(above)} of {len(compared)} trained methods {claim}{others}.", detail)


def _best_jfb(trained: pd.DataFrame) -> Finding:
    """The best jfb method against total variation; chosen on validation pictures, to not bias the test comparison."""
    jfb = trained[trained["backprop"] == "jfb"] if len(trained) else trained
    jfb = jfb[jfb["over_tv"].notna()] if "over_tv" in jfb else jfb[:0]
    if jfb.empty:
        return Finding(
            "note", "It is unknown whether the best jfb method beats total variation: one of them is not finished."
        )
    best = jfb.sort_values("validation_psnr").to_dict("records")[-1]
    mark, verdict = _VERDICTS[best["over_tv_verdict"]]
    return Finding(
        mark,
        f"The best jfb method {verdict} total variation.",
        f"{best['label']}, the best on validation pictures: {_shown(best, 'over_tv')} on test pictures.",
    )


_VERDICTS: dict[str, tuple[Mark, str]] = {
    "better": ("yes", "beats"),
    "worse": ("no", "does not beat"),
    "equivalent": ("note", "is equivalent to"),
    "undecided": ("mixed", "cannot be told apart from"),
}


def _against_jfb(trained: pd.DataFrame, cost: pd.DataFrame) -> Iterator[Finding]:
    """What the other backprop methods gain over jfb and what they cost."""
    prices = {row["label"]: _price(row) for row in cost.to_dict("records")}
    for backprop, rows in trained[trained["over_jfb"].notna()].groupby("backprop", sort=False) if len(trained) else []:
        parts = []
        for row in rows.to_dict("records"):
            price = prices.get(row["label"], "")
            parts.append(f"{row['label']} {_shown(row, 'over_jfb')}, {row['over_jfb_verdict']}{price}")
        verdicts = rows["over_jfb_verdict"].value_counts()
        better, others = verdicts.pop("better") if "better" in verdicts else 0, _counted(verdicts.to_dict())
        yield Finding(
            "note", f"{backprop} is better than jfb in {better} of {len(rows)} pairs{others}.", f"{'; '.join(parts)}."
        )


def _counted(verdicts: Mapping[Any, int]) -> str:
    """The other verdicts, so that what is undecided does not read as a loss."""
    parts = [f"{count} {verdict}" for verdict, count in verdicts.items() if count]
    return f" ({', '.join(parts)})" if parts else ""


def _price(row: dict[Any, Any]) -> str:
    """A method's mean step time relative to jfb's, with its interval if it comes from a timing cell."""
    if math.isnan(row["ratio"]):
        return ""
    if math.isnan(row["ratio_low"]):
        return f" at {row['ratio']:.2f} times the mean step time ({NOT_INTERLEAVED})"
    return f" at {row['ratio']:.2f} [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}] times the mean step time"


def _twins(data: GridData) -> Iterator[Finding]:
    """Compare pairs of maps that have the same fixed points, so that only training and convergence differ."""
    for (first, second), condition in TWINS:
        parts = []
        for _, cells in data.trained.groupby("twin", sort=False):
            ours, theirs = cells[cells["model"] == first], cells[cells["model"] == second]
            if len(ours) and len(theirs):
                found = compare(data, ours, theirs)
                parts += [f"{describe(found)} by {cells.iloc[0]['variant']}"] if found else []
        if parts:
            text = f"{first} and {second} have the same fixed points if {condition}."
            yield Finding("note", text, f"{first} over {second} as trained here: {', '.join(parts)}.")


def _solves(trained: pd.DataFrame) -> Iterator[Finding]:
    """Whether the scores belong to fixed points, that is, whether the test solves converged."""
    if trained.empty:
        return
    rows = trained.to_dict("records")
    diverged = [f"{row['label']}: {row['diverged']}" for row in rows if row["diverged"]]
    if diverged:
        yield Finding("warning", "Some solves diverged on test pictures.", f"{', '.join(diverged)}.")
    else:
        yield Finding("yes", "No trained method's solve diverged on a test picture.")
    judged = [row for row in rows if not math.isnan(row["unconverged"])]
    loose = [f"{row['label']}: {row['unconverged']:.0f} of {row['pictures'] * row['seed_count']}" for row in judged
             if row["unconverged"]]  # fmt: skip
    if loose:
        text = "Some test solves end above the solver's tolerance, so their scores are not quite those of fixed points."
        yield Finding("warning", text, f"{', '.join(loose)}.")
    elif judged:
        yield Finding("yes", "Every test solve of every trained method reaches the solver's tolerance.")


def _contraction(contraction: pd.DataFrame) -> Iterator[Finding]:
    """Whether the trained models have fixed points that plain iteration finds and does not leave."""
    rows = contraction.to_dict("records")
    if not rows:
        return
    sides = [_side_of_one(row) for row in rows]
    inside, undecided = sides.count("below"), sides.count("undecided")
    radii = [
        f"{row['label']} {row['spectral_radius']:.3f} with |J| {row['norm']:.2f}"
        + (" (undecided within the residual)" if side == "undecided" else "")
        for row, side in zip(rows, sides, strict=True)
    ]
    text = f"{inside} of {len(rows)} trained methods have a map whose measured spectral radius is below 1"
    yield Finding(
        "mixed" if undecided else _share(inside, len(rows)),
        f"{text}; {undecided} undecided within the residual." if undecided else f"{text}.",
        f"{', '.join(radii)}.",
    )
    held = [row for row in rows if row["drift"] >= -HELD]
    drifts = [f"{row['label']} {row['psnr_k']:.2f} to {row['psnr_10k']:.2f} dB" for row in rows]
    yield Finding(
        _share(len(held), len(rows)),
        f"{len(held)} of {len(rows)} trained methods keep their PSNR, to {HELD} dB, at ten times the training depth.",
        f"Plain iteration to K and to 10 K evaluations: {', '.join(drifts)}.",
    )


def _side_of_one(row: dict[Any, Any]) -> Literal["above", "below", "undecided"]:
    """On which side of 1 the spectral radius is, given the relative residual of its eigenvalue."""
    radius, residual = row["spectral_radius"], row["eigenvalue_residual"]
    if radius * (1 + residual) < 1:
        return "below"
    return "above" if radius * (1 - residual) > 1 else "undecided"


def _gradients(gradients: pd.DataFrame) -> Iterator[Finding]:
    """The error of each method's gradient, if there is an exact one to compare with."""
    if gradients.empty:
        return
    compared = gradients[gradients["gradient"].notna()]
    places = gradients.groupby(["method", "step"])["gradient"].apply(lambda names: names.notna().any())
    if not places.all():
        text = f"{int((~places).sum())} of {len(places)} measurements of gradients have no converged reference."
        yield Finding("warning", text, "The exact gradient was not reached within the evaluations allowed.")
    medians = compared.groupby("gradient", sort=False)["relative_error"].median().dropna().sort_values()
    if len(medians):
        text = f"Of the gradients compared with the exact one, {medians.index[0]} is the closest."
        errors = ", ".join(f"{name} {error:.1e}" for name, error in medians.items())
        yield Finding("note", text, f"Median relative error over trained methods and steps: {errors}.")


def _share(good: int, total: int) -> Mark:
    return "yes" if good == total else "mixed" if good else "no"


def _skipped_steps(data: GridData) -> Iterator[Finding]:
    if data.steps.empty:
        return
    skipped = data.steps[~data.steps["updated"].astype(bool)].groupby("cell_id").size()
    counts = [f"{cell_id} {count}" for cell_id, count in skipped.items()]
    if counts:
        yield Finding(
            "warning", "Some training steps were skipped: a gradient was not finite.", f"{', '.join(counts)}."
        )


def _denoisers(data: GridData) -> Iterator[Finding]:
    """Whether pretraining improved the denoisers, from which all trained methods start."""
    changes: dict[str, float] = {}
    parts = []
    for cell_id in data.finished[data.finished["kind"] == "pretrain"]["cell_id"]:
        means = [scores["psnr"].mean() for scores in data.scores.get((cell_id, "validation"), [])]
        if len(means) < 2:
            continue
        first, last = means[0], means[-1]
        changes[cell_id] = last - first
        parts.append(f"{cell_id} from {first:.2f} to {last:.2f} dB on noisy validation pictures")
    better = sum(change > 0 for change in changes.values())
    if changes:
        text = f"{better} of {len(changes)} denoisers are better after pretraining than before."
        yield Finding("yes" if better == len(changes) else "no", text, f"{', '.join(parts)}.")


def _searches(data: GridData) -> Iterator[Finding]:
    """Whether a method could have been tuned further."""
    inside: list[str] = []
    outside: list[str] = []
    for (cell_id, _), search in distinct_searches(data).groupby(["cell_id", "parameter"], sort=False):
        first = search.iloc[0]
        text = (
            f"{data.cells['label'][str(cell_id)]} at {first['parameter']} {first['chosen']:.3g} of {len(search)} tried"
        )
        (inside if first["interior"] else outside).append(text)
    if outside:
        text = f"{len(outside)} of {len(inside) + len(outside)} searches end at an edge of the values tried."
        yield Finding("warning", text, f"{', '.join(outside)}.")
    if inside:
        text = f"{len(inside)} of {len(inside) + len(outside)} searches end inside the values tried."
        yield Finding("yes", text, f"{', '.join(inside)}.")


def _code(data: GridData) -> Iterator[Finding]:
    if data.finished.empty:
        return
    found = list(dict.fromkeys(context.commits(data.finished)))
    if len(found) > 1:
        yield Finding("warning", f"The finished cells come from {len(found)} versions of the code: {', '.join(found)}.")
    elif data.finished["dirty"].any():
        yield Finding("warning", f"All finished cells come from {found[0]}, with changes that no commit contains.")
    elif found == ["unknown"]:
        yield Finding("warning", "It is unknown which commit the finished cells come from.")
    else:
        yield Finding("yes", f"All finished cells come from one clean commit, {found[0]}.")


def _devices(data: GridData) -> Iterator[Finding]:
    """Warn about several kinds of devices: noise is drawn on the device, so it differs between kinds."""
    kinds = sorted({str(device).partition(":")[0] for device in data.finished["device"]})
    if len(kinds) > 1:
        text = f"Finished cells ran on {' and '.join(kinds)}, which draw different noise on the same picture."
        yield Finding("warning", text)


def _shown(row: dict[Any, Any], column: str) -> str:
    """A difference in dB with its interval, if there is one."""
    return f"{row[column]:+.2f} dB{interval(row[f'{column}_low'], row[f'{column}_high'])}"
