"""The tables of the bench, and the claims that they must support."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from harness.commands.bench import peers, warm_start
from harness.commands.bench.depth import DepthRow, FloorRow
from harness.commands.bench.experiments import (
    EQUAL_ERROR,
    FORWARD_TOL,
    Compiled,
    EqualErrorRow,
    ForwardRow,
    Invariance,
    MemoryFormat,
)
from harness.commands.bench.observation import spread
from harness.commands.bench.warm_start import AFRESH, WARM, WarmStart

MIB = 2**20
MOST_TIME_OF_JFB = 1.05
MOST_TIME_OF_IMPLICIT = 0.8
MOST_BYTES_OF_IMPLICIT = 0.6
MOST_EVALUATIONS = 16
LEAST_SAVED = 0.4
UNCHANGED = 1e-4
"""Largest relative difference that counts as no change: float32 and differently blocked convolutions change the last
bits, and a solve propagates these changes."""


@dataclass(frozen=True)
class Results:
    """All results of one run."""

    depths: list[int]
    depth_rows: list[DepthRow]
    floor: list[FloorRow]
    equal_error: list[EqualErrorRow]
    forward: list[ForwardRow]
    invariances: list[Invariance]
    memory_format: MemoryFormat
    warm_starts: list[WarmStart]
    compiled: Compiled | None
    """None in a quick run, because compiling would take longer than everything else."""


@dataclass(frozen=True)
class Claim:
    """A statement that the bench must support, and whether this run does."""

    statement: str
    measured: str
    holds: bool


def show(results: Results, console: Console) -> None:
    """Print all tables."""
    console.print(_times(results))
    console.print(_floor(results.floor))
    console.print(_work(results))
    console.print(_equal_error(results.equal_error))
    console.print(_forward(results.forward))
    console.print(_invariances(results.invariances))
    console.print(_warm_starts(results.warm_starts))
    gain = results.memory_format
    console.print(
        f"channels_last: T is {gain.step} times as fast as in the default format, "
        f"{gain.gradient} times with its backward pass."
    )
    if results.compiled:
        console.print(_compiled(results.compiled))
    if not peers.installed():
        console.print(f"{peers.NAME} is not installed here, so its rows are missing. To install it: make peers")
    console.print(_verdict(claims(results)))


def _times(results: Results) -> Table:
    headings = [f"K = {depth}" for depth in results.depths]
    table = _table(
        "Time / floor, median (quartiles); floor = K evaluations + one with its backward pass", *headings, "slope"
    )
    for row in results.depth_rows:
        table.add_row(row.library, row.name, *map(str, row.time), str(row.time_slope))
    return table


def _floor(rows: list[FloorRow]) -> Table:
    table = Table(
        "K",
        "jfb",
        "floor / floor",
        "pairs",
        title="Time / mean of the floors just before and after",
        box=box.SIMPLE,
        title_justify="left",
    )
    for row in rows:
        table.add_row(str(row.depth), str(row.jfb), str(row.again), str(row.pairs))
    return table


def _work(results: Results) -> Table:
    first, last = results.depths[0], results.depths[-1]
    table = _table(
        f"Work, memory (MiB, and KiB per step) and relative gradient error; counts at K = {last}",
        "T",
        "backward",
        "saved",
        "saved/step",
        "peak",
        "peak/step",
        f"error, K = {first}",
        f"error, K = {last}",
    )
    for row in results.depth_rows:
        deep = row.work[-1]
        table.add_row(
            row.library,
            row.name,
            str(deep.evaluations),
            str(deep.products),
            _mib(deep.saved_bytes),
            f"{row.saved_slope / 1024:.1f}",
            _mib(deep.peak_bytes),
            f"{row.peak_slope / 1024:.1f}",
            f"{row.work[0].error:.1e}",
            f"{deep.error:.1e}",
        )
    return table


def _equal_error(rows: list[EqualErrorRow]) -> Table:
    table = _table(
        f"Implicit differentiation, forward / adjoint solver, at a gradient error of {EQUAL_ERROR:.0e}: "
        f"means over {len(rows[0].tol)} problems; smallest tol, largest bytes and error",
        "tol",
        "T",
        "backward",
        "saved",
        "peak",
        "error",
        "time / first row",
    )
    for row in rows:
        table.add_row(
            row.library,
            row.name,
            f"{min(row.tol):.0e}",
            f"{statistics.fmean(work.evaluations for work in row.work):.1f}",
            f"{statistics.fmean(work.products for work in row.work):.1f}",
            _mib(max(work.saved_bytes for work in row.work)),
            _mib(max(work.peak_bytes for work in row.work)),
            f"{max(work.error for work in row.work):.1e}",
            str(row.time),
        )
    return table


def _forward(rows: Iterable[ForwardRow]) -> Table:
    table = _table(f"Forward solve to {FORWARD_TOL:.0e}", "evaluations of T", "residual")
    for row in rows:
        table.add_row(row.library, row.name, str(row.evaluations), f"{row.residual:.1e}")
    return table


def _invariances(rows: Iterable[Invariance]) -> Table:
    table = _table(
        "Changes that should not affect the result", "change", "evaluations or products", "relative difference"
    )
    for row in rows:
        before, after = row.evaluations
        table.add_row(row.library, row.solver, row.change, f"{before} -> {after}", f"{row.difference:.1e}")
    return table


def _warm_starts(rows: list[WarmStart]) -> Table:
    table = _table(
        f"Warm starts in a short training, over {len(rows[0].psnr)} seeds: median (quartiles)",
        "T per gradient",
        "saved",
        "final PSNR, dB",
        "gain, dB",
    )
    for row in rows:
        figures = [spread(row.evaluations), warm_start.saved(rows, row), spread(row.psnr), spread(row.gain)]
        table.add_row("jfbench", row.name, *map(str, figures))
    return table


def _compiled(times: Compiled) -> str:
    return (
        f"torch.compile: T takes {times.step} of its uncompiled time, T with its backward pass {times.jfb}, "
        f"implicit {times.implicit}, after {times.seconds:.0f} s of compiling."
    )


def _verdict(found: Iterable[Claim]) -> Table:
    table = Table("claim", "measured", "", title="Verdict", box=box.SIMPLE, title_justify="left")
    for claim in found:
        table.add_row(claim.statement, claim.measured, "holds" if claim.holds else "[bold red]does not hold")
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=box.SIMPLE, title_justify="left")
    table.add_column("library", no_wrap=True)
    table.add_column("method", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _mib(size: int) -> str:
    return f"{size / MIB:.2f}"


def claims(results: Results) -> list[Claim]:
    """The claims that this run can check."""
    found = [_jfb(results.floor), *_slopes(results.depth_rows), _evaluations(results.forward), _unchanged(results)]
    found.append(_warm(results.warm_starts))
    return found + (_implicit(results.equal_error) if peers.installed() else [])


def _jfb(rows: list[FloorRow]) -> Claim:
    worst = max(rows, key=lambda row: row.jfb.median)
    return Claim(
        f"jfb takes at most {MOST_TIME_OF_JFB} times its floor at every depth",
        f"{worst.jfb} at worst (K = {worst.depth}); floor / floor is {worst.again} there",
        worst.jfb.median <= MOST_TIME_OF_JFB,
    )


def _slopes(rows: list[DepthRow]) -> list[Claim]:
    flat = [row.saved_slope for row in rows if row.library == "jfbench" and row.flat]
    unrolled = {row.name: row.saved_slope for row in rows if row.library == "jfbench" and not row.flat}
    measured = ", ".join(f"{name} {slope / 1024:.1f} KiB" for name, slope in unrolled.items())
    return [
        Claim("saved bytes do not grow with K for any flat method", f"largest slope {max(flat):g}", not any(flat)),
        Claim("saved bytes grow with K for unrolled", measured + " per step", min(unrolled.values()) > 0),
    ]


def _evaluations(rows: list[ForwardRow]) -> Claim:
    evaluations = {f"{row.library} {row.name}": row.evaluations for row in rows}
    return Claim(
        f"anderson reaches {FORWARD_TOL:.0e} in at most {MOST_EVALUATIONS} evaluations",
        ", ".join(f"{name} {count}" for name, count in evaluations.items()),
        evaluations["jfbench anderson"] <= MOST_EVALUATIONS,
    )


def _unchanged(results: Results) -> Claim:
    ours = [row for row in results.invariances if row.library == "jfbench"]
    worst = max(row.difference for row in ours)
    moved = sum(row.evaluations[0] != row.evaluations[1] for row in ours)
    return Claim(
        "duplicating the batch, other pixel units or a smaller loss change nothing",
        f"largest relative difference {worst:.1e}, evaluations differ in {moved} of {len(ours)} cases",
        worst <= UNCHANGED and moved == 0,
    )


def _warm(rows: list[WarmStart]) -> Claim:
    """Compares evaluations and mean PSNR; each seed has the same pictures and noise in every row."""
    (cold,), (warm,) = ([row for row in rows if row.name == name] for name in (AFRESH, WARM))
    share = warm_start.saved(rows, warm)
    more = statistics.fmean(warm.psnr) - statistics.fmean(cold.psnr)
    return Claim(
        f"a warm start ({WARM}) saves {LEAST_SAVED:.0%} of the evaluations at a final PSNR at least as high",
        f"{share} saved, {more:+.3f} dB",
        share.median >= LEAST_SAVED and more >= 0,
    )


def _implicit(rows: list[EqualErrorRow]) -> list[Claim]:
    """Compares our first row's time and saved bytes with its equivalent and with the best of the peer's rows."""
    ours, theirs = rows[0], [row for row in rows if row.library == peers.NAME]
    (equivalent,) = [row for row in theirs if row.name == ours.name]
    fastest = min(theirs, key=lambda row: row.time.median)
    leanest = min(theirs, key=_saved_bytes)
    times = [_time(equivalent, "the same solvers")] + (
        [_time(fastest, "its fastest")] if fastest is not equivalent else []
    )
    return [*times, _bytes(ours, equivalent, "the same solvers"), _bytes(ours, leanest, "its leanest")]


def _time(theirs: EqualErrorRow, which: str) -> Claim:
    share = [1 / theirs.time.high, 1 / theirs.time.median, 1 / theirs.time.low]
    return Claim(
        f"implicit takes at most {MOST_TIME_OF_IMPLICIT} of the time of {peers.NAME}'s ({which}: {theirs.name})",
        f"{share[1]:.2f} ({share[0]:.2f}-{share[2]:.2f})",
        share[1] <= MOST_TIME_OF_IMPLICIT,
    )


def _bytes(ours: EqualErrorRow, theirs: EqualErrorRow, which: str) -> Claim:
    share = _saved_bytes(ours) / _saved_bytes(theirs)
    return Claim(
        f"implicit saves at most {MOST_BYTES_OF_IMPLICIT} of the bytes of {peers.NAME}'s ({which}: {theirs.name})",
        f"{share:.2f}",
        share <= MOST_BYTES_OF_IMPLICIT,
    )


def _saved_bytes(row: EqualErrorRow) -> int:
    return max(work.saved_bytes for work in row.work)
