"""The pictures of docs/benchmarks.md, as SVG and PNG, from the kept figures. One whose suite was not measured stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from tests.bench.results import Curve, Result, Row

OURS, PEER, EMPTY, PLAIN, WARM = "#0b6e99", "#c2571a", "#aaaaaa", "#222222", "#c2571a"
STYLE: Any = {
    "svg.hashsalt": "otel-usdt",  # the same figures make the same file
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.labelcolor": PLAIN,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
}
Suites = Mapping[str, Sequence[Result]]


def draw(suites: Suites, folder: Path) -> None:
    """All that there are figures for."""
    with mpl.rc_context(STYLE):
        for name, (picture, suite) in PICTURES.items():
            if suite in suites:
                figure = picture(suites[suite])
                figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
                figure.savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None})


def framed(title: str, height: float = 3.2) -> tuple[Figure, Axes]:
    """An empty picture."""
    figure = Figure(figsize=(7.2, height), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure, figure.add_subplot()


def cost(results: Sequence[Result]) -> Figure:
    """A line for each kind of call: nanoseconds under an empty program, ours and bpftrace."""
    cases: dict[str, dict[str, float]] = {}
    for row in results:
        if isinstance(row, Row) and row.peer:
            cases.setdefault(row.figure, {}).update({"otel-usdt": row.ours.median, row.against: row.peer.median})
    figure, axes = framed("What a probed call costs the target", 1.3 + 0.32 * len(cases))
    colours = {"an empty program": EMPTY, "otel-usdt": OURS, "bpftrace": PEER}
    for y, taken in enumerate(reversed(cases.values())):
        axes.plot([min(taken.values()), max(taken.values())], [y, y], color="#dddddd", linewidth=2, zorder=1)
        for name, value in taken.items():
            axes.plot(value, y, "o", color=colours[name], markersize=5, zorder=3 if name == "otel-usdt" else 2)
        ours, peer = taken["otel-usdt"], taken.get("bpftrace")
        if peer:
            axes.annotate(
                f"{ours:,.0f} ns", (max(taken.values()), y), (8, 0), textcoords="offset points", va="center", color=OURS, fontsize=8
            )
            axes.annotate(f"{ours / peer:.2f} x", (1, y), (4, 0), ("axes fraction", "data"), "offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(cases)), list(reversed(cases)))
    axes.tick_params("y", length=0)
    axes.set_ylim(-0.6, len(cases) - 0.4)
    axes.margins(x=0.12)
    axes.set_xscale("log")
    axes.set_xlim(right=2.2 * max(max(taken.values()) for taken in cases.values()))  # room for the figures
    logarithmic(axes, "time a call, median, logarithmic; at the right: otel-usdt / bpftrace", times)
    dots = [Line2D([], [], marker="o", linestyle="", color=colour, label=name) for name, colour in colours.items()]
    figure.legend(handles=dots, loc="outside upper right", ncols=len(dots), frameon=False)
    return figure


def rates(results: Sequence[Result]) -> Figure:
    """A bar for each way from a record to the bytes of a request."""
    bars: dict[str, tuple[float, str]] = {}
    for row in results:
        if isinstance(row, Row):
            bars.setdefault(row.figure, (row.ours.median, OURS))
            if row.peer:
                bars[f"{row.figure.partition(',')[0]}, {row.against}"] = row.peer.median, EMPTY
    shown = sorted(bars.items(), key=lambda one: one[1][0])
    figure, axes = framed("From the ring to the bytes of an OTLP request", 1.0 + 0.36 * len(shown))
    for y, (_, (value, colour)) in enumerate(shown):
        axes.barh(y, value, color=colour, height=0.6)
        axes.annotate(f"{value:,.0f}", (value, y), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(shown)), [name for name, _ in shown])
    axes.tick_params("y", length=0)
    axes.set_xlim(1e3, max(value for value, _ in bars.values()) * 4)
    logarithmic(axes, "spans (records) a CPU second, median, logarithmic", lambda value: f"{value:,.0f}")
    return figure


def loss(results: Sequence[Result]) -> Figure:
    """Share of spans lost against the rate of calls."""
    figure, axes = framed("Spans lost, by how often the target calls")
    for curve in curves(results, "loss"):
        axes.plot([x / 1000 for x in curve.x], curve.y, "o-", color=OURS, clip_on=False, markersize=4)
        x, y = curve.x[-1] / 1000, curve.y[-1]
        axes.annotate(f"{y:.1f} % at {x:,.0f}", (x, y), (0, 8), textcoords="offset points", ha="right", color=OURS, fontsize=8)
    axes.set_ylim(0, max(5.0, axes.get_ylim()[1]))
    axes.set_xlim(left=0)
    axes.set_xlabel("thousand calls a second, target on one core of two")
    axes.set_ylabel("% of spans lost, all in the ledger")
    return figure


def latency(results: Sequence[Result]) -> Figure:
    """Share of calls that took longer, with and without probes."""
    figure, axes = framed("How long the target's calls take", 3.8)
    styles = {"no probe": (PLAIN, "-"), "histogram": ("#5a9e6f", "-"), "spans": (OURS, "-"), "spans, endpoint hangs": (WARM, "--")}
    for curve in curves(results, "latency"):
        colour, line = styles[curve.label]
        axes.step(curve.x, curve.y, where="post", color=colour, linestyle=line, linewidth=1.4, label=curve.label)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g} %"))
    axes.set_ylim(1e-5, 1)
    axes.set_ylabel("share of calls that take longer")
    logarithmic(axes, "time a call, logarithmic", times)
    axes.legend(frameon=False, loc="upper right")
    return figure


def memory(results: Sequence[Result]) -> Figure:
    """Megabytes of both lasting processes while every call is a span."""
    figure, axes = framed("Memory of supervisor and pipeline, every call a span", 2.6)
    for curve in curves(results, "memory"):
        axes.plot(curve.x, curve.y, color=OURS)
        axes.annotate(f"{curve.y[-1]:.0f} MB", (curve.x[-1], curve.y[-1]), (-4, 6), textcoords="offset points", ha="right", color=OURS)
    axes.axhline(80, color=EMPTY, linewidth=0.8, linestyle=":")
    axes.annotate("80 MB", (0, 80), (2, 3), textcoords="offset points", color="#777777", fontsize=8)
    axes.set_ylim(0, 95)
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds at 200,000 calls a second")
    axes.set_ylabel("MB, PSS")
    return figure


def curves(results: Sequence[Result], picture: str) -> list[Curve]:
    """Those of one picture."""
    return [one for one in results if isinstance(one, Curve) and one.picture == picture]


def logarithmic(axes: Axes, label: str, shown: Callable[[float], str]) -> None:
    """The x axis, with ticks at 1, 3, 10, 30, ... where it spans little, else at decades."""
    axes.set_xscale("log")
    axes.set_xlabel(label)
    least, most = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if most / least < 1000 else (1,), numticks=20))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="x", color="#eeeeee", zorder=0)
    axes.set_axisbelow(True)


def times(ns: float) -> str:
    """Nanoseconds, with the unit that suits."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if ns >= size:
            return f"{ns / size:g} {unit}"
    return f"{ns:g} ns"


PICTURES: Mapping[str, tuple[Callable[[Sequence[Result]], Figure], str]] = {
    "cost": (cost, "hits"),
    "rates": (rates, "encode"),
    "loss": (loss, "burst"),
    "memory": (memory, "burst"),
    "latency": (latency, "latency"),
}
