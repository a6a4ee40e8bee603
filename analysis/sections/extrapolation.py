"""The model of a step drawn up to 1,024 ranks, on published networks."""

import math

from matplotlib.axes import Axes

from analysis.inference.step_model import Algorithm, Link, Work, fit_work, predict
from analysis.reading.load import GridData
from analysis.rendering.figures import Figure, facets, finish, render
from analysis.sections.scaling import scaling_frame
from analysis.sections.scaling_points import Measured, link_of, measured, pooled

NETWORKS = {
    "NVLink and InfiniBand": Link(latency=2.7e-6, bandwidth=80e9),
    "100 Gb/s cloud Ethernet": Link(latency=5.0e-6, bandwidth=12.5e9),
}
"""Published latency per message and bandwidth; docs/scaling.md names the sources."""
SOURCES = (
    "NVLink and InfiniBand: the constants by which NVIDIA's NCCL 2.7 predicts its own times (src/graph/tuning.cc: 2.7 "
    "us per network hop of a ring, at most 80 GB/s across nodes); 100 Gb/s cloud Ethernet: NCCL tests on 2 to 8 nodes "
    "of 8 GPUs with EFA, published by J. Kahn in 2019 (5.0 to 5.4 us per hop), at the nominal rate"
)
NETWORK_COLOURS = dict(zip(NETWORKS, ("#117733", "#AA4499"), strict=True))
LARGEST = 1024
"""The number of ranks at which the figure ends."""
RANKS = [2**power for power in range(LARGEST.bit_length())]


def efficiency(one: Measured, work: Work, network: Link, ranks: int, slow: bool) -> float:
    """Modelled images/s per rank relative to one rank with the same batch per rank.

    The fast end of the band reduces along a tree, and no sample is slower than those recorded. At the slow end, it
    reduces along a ring, and samples that were not seen may reach the solver's limit.
    """
    algorithm: Algorithm = "ring" if slow else "tree"
    alone = predict(one.on(1, one.batch), work, network)
    return alone / predict(one.on(ranks, one.batch, unseen=slow and ranks > 1), work, network, algorithm)


def extrapolation(data: GridData) -> Figure | None:
    """Modelled efficiency under weak scaling up to LARGEST ranks, a band for each published network."""
    found = measured(data)
    timed = [one.as_recorded for one in found if not math.isnan(one.seconds)]
    if not timed:
        return None
    work, bases = fit_work(timed, link_of(data)), _bases(found)
    canvas, axes_of = facets([one.label for one in bases], columns=3)
    weak = scaling_frame(data)
    weak = weak[weak["mode"] == "weak"]
    top = max([1.1, *(1.1 * weak["parallel_efficiency"].dropna())])
    for one in bases:
        axes, rows = axes_of[one.label], weak[weak["label"] == one.label]
        _draw_bands(axes, one, work)
        axes.plot(rows["world_size"], rows["parallel_efficiency"], "ko", markersize=5, label="measured here")
        axes.set_xscale("log", base=2)
        axes.set(title=one.label, ylim=(0, top), xticks=RANKS[::2], xticklabels=[str(ranks) for ranks in RANKS[::2]])
    finish(canvas, axes_of, "Ranks", "Parallel efficiency, weak")
    return render("scaling-model", f"A model up to {LARGEST:,} ranks", _caption(data, bases, work), canvas)


def _draw_bands(axes: Axes, one: Measured, work: Work) -> None:
    """A band between dashed lines for each network; the first has wider lines, as they may coincide."""
    for width, (name, network) in zip((3, 1), NETWORKS.items(), strict=True):
        slow, fast = ([efficiency(one, work, network, ranks, end) for ranks in RANKS] for end in (True, False))
        colour = NETWORK_COLOURS[name]
        axes.fill_between(RANKS, slow, fast, color=colour, alpha=0.18, linewidth=0)
        axes.plot(RANKS, slow, "--", color=colour, linewidth=width, label=f"model: {name}")
        axes.plot(RANKS, fast, "--", color=colour, linewidth=width)


def _bases(found: tuple[Measured, ...]) -> list[Measured]:
    """For each method, the cells on the fewest ranks with the smallest batch, with the counts of all on those ranks."""
    fewest = min(one.ranks for one in found)
    ordered = sorted((one for one in found if one.ranks == fewest), key=lambda one: one.batch)
    first = {label: next(o for o in ordered if o.label == label) for label in dict.fromkeys(o.label for o in ordered)}
    return [pooled(found, one) for one in first.values()]


def _caption(data: GridData, bases: list[Measured], work: Work) -> str:
    """What the figure assumes, the batch that so many ranks force, and what the alternative costs."""
    batch = bases[0].batch
    ends = [
        efficiency(one, work, network, LARGEST, slow)
        for one in bases for network in NETWORKS.values() for slow in (True, False)
    ]  # fmt: skip
    device = " / ".join(dict.fromkeys(map(str, data.trained["device"])))
    return (
        f"Everything dashed is a model, not a measurement: costs of evaluations and products as on this device "
        f"({device}), gradients of {bases[0].gradient_bytes / 2**20:.2g} MiB, the slowest of all samples by order "
        f"statistics, and all-reduces on two published networks. The upper edge of a band is a tree and no sample "
        f"slower than those recorded; the lower edge is a ring, and unseen samples may reach the solver's limit. "
        f"{SOURCES}. A faster device makes communication weigh more. With {batch} pictures per rank as here, "
        f"{LARGEST:,} ranks force a global batch of {LARGEST * batch:,} (with one each, {LARGEST:,}), which is another "
        f"training. The alternative, {LARGEST:,} cells in parallel with one rank each, has efficiency 1: the model "
        f"prices a picture of the data-parallel step at {1 / max(ends):.2f} to {1 / min(ends):.2f} times its "
        f"rank-seconds."
    )
