"""Plots as PNG in memory: colour-blind safe, and legible from 2 to 12 classes and from 2 to 300 speakers."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emofuse.escape import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"  # Okabe and Ito's palette.
NAMED_SPEAKERS = 60
"""Most speakers that are named on the axis."""

_DOTS = 160  # Dots an inch; pages show 96, so that sharp screens and paper have some to spare.
_LABEL = 18  # Characters of a name on an axis.

# The built-in font has no Chinese, Japanese or Korean; these are what systems usually have.
_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Microsoft YaHei", "Arial Unicode MS")


@dataclass(frozen=True)
class Plot:
    """A PNG with its size on the page, in CSS pixels, and its description in words."""

    png: bytes
    width: int
    height: int
    alt: str


def confusion_plot(matrix: Sequence[Sequence[float]], classes: Sequence[str]) -> Plot:
    """Confusion matrix: percent of each true class, with counts below."""
    counts = np.asarray(matrix, dtype=np.float64)
    truth = counts.sum(1, keepdims=True)
    fractions = np.divide(counts, truth, out=np.zeros_like(counts), where=truth > 0)
    number = len(classes)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.pcolormesh(fractions, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1.5)
        axes.invert_yaxis()
        for row, column in np.ndindex(number, number):
            if not truth[row, 0]:
                continue
            colour = "white" if fractions[row, column] > 0.55 else "black"
            # The layout need not measure texts inside the axes.
            middle: dict[str, Any] = {"ha": "center", "va": "center", "color": colour, "in_layout": False}
            axes.text(column + 0.5, row + 0.36, f"{100 * fractions[row, column]:.0f} %", fontsize=9, **middle)
            axes.text(column + 0.5, row + 0.74, f"{counts[row, column]:.0f}", fontsize=7, **middle)
        names = [_label(name) for name in classes]
        slanted = max(map(len, names)) > 5
        middles = np.arange(number) + 0.5
        axes.set_xticks(middles, names, **(_SLANTED if slanted else {}))
        axes.set_yticks(middles, names)
        axes.set_xlabel("Predicted class")
        axes.set_ylabel("True class")
        axes.tick_params(length=0)

    alt = "Confusion matrix, true classes in rows: " + "; ".join(
        f"{name} {', '.join(f'{value:.0f}' for value in row)}" for name, row in zip(classes, counts, strict=True)
    )
    return _plot(draw, width=max(3.6, 1.5 + 0.6 * number), height=max(2.9, 1.4 + 0.46 * number), alt=alt)


def recall_plot(recalls: Mapping[str, float | None], by_seed: Sequence[Mapping[str, float | None]]) -> Plot:
    """Recall of each class: a bar for all seeds together, a dot a seed."""
    classes = list(recalls)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for place, name in enumerate(classes):
            value = recalls[name]
            if value is None:
                axes.text(1, place, "not in the test parts", va="center", fontsize=8, color=GREY)
                continue
            axes.barh(place, 100 * value, height=0.62, color=BLUE, alpha=0.75)
            dots = [100 * found for seed in by_seed if (found := seed.get(name)) is not None]
            if len(dots) > 1:
                axes.plot(dots, [place] * len(dots), "o", color="black", markersize=3.5, clip_on=False)
            axes.annotate(
                f"{100 * value:.1f}", (1, place), xycoords=("axes fraction", "data"), xytext=(8, 0),
                textcoords="offset points", va="center", fontsize=9, annotation_clip=False,
            )  # fmt: skip
        _chance(axes.axvline, len(classes))
        axes.set_yticks(range(len(classes)), [_label(name) for name in classes])
        axes.set_ylim(len(classes) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.set_xlabel("Recall, percent (dots: seeds; dotted: chance)")
        _clean(axes, "x")

    alt = "Recall of each class in percent: " + ", ".join(
        f"{name} {'not tested' if value is None else f'{100 * value:.1f}'}" for name, value in recalls.items()
    )
    return _plot(draw, width=4.4, height=1.1 + 0.36 * len(classes), alt=alt)


def speaker_plot(
    by_speaker: Mapping[str, Sequence[float]], *, pooled: float, title: str, factor: float, chance: float | None
) -> Plot:
    """A metric of each speaker, sorted: a dot for the mean over seeds, a line for their range.

    Args:
        by_speaker: The metric in every seed, by speaker.
        pooled: The same over all speakers.
        title: What the metric is called.
        factor: What it is multiplied by: 100 for percent, whose axis ends at 100, else 1.
        chance: What guessing reaches; None where there is no such thing.
    """
    order = sorted(by_speaker, key=lambda name: (float(np.mean(by_speaker[name])), name))
    means = [factor * float(np.mean(by_speaker[name])) for name in order]
    lows, highs = ([factor * bound(by_speaker[name]) for name in order] for bound in (min, max))
    number, short = len(order), title.partition(",")[0]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        size = float(np.clip(240 / number, 2.5, 7))
        axes.vlines(range(number), lows, highs, color=BLUE, alpha=0.45, linewidth=min(2.0, size / 2))
        axes.plot(range(number), means, "o", color=BLUE, markersize=size, clip_on=False)
        axes.axhline(factor * pooled, color=ORANGE, linewidth=1.2)
        lines = [(pooled, "pooled", ORANGE, chance is None or pooled >= chance)]
        if chance is not None:
            axes.axhline(factor * chance, color=GREY, linestyle=":", linewidth=1.2)
            lines.append((chance, "chance", GREY, pooled < chance))
        close = chance is not None and abs(pooled - chance) < 0.08
        sides = ("bottom", "top") if close else ("center", "center")
        for height, words, colour, upper in lines:
            axes.annotate(
                words, (1, factor * height), xycoords=("axes fraction", "data"), xytext=(5, 0),
                textcoords="offset points", va=sides[not upper], fontsize=8, color=colour, annotation_clip=False,
            )  # fmt: skip
        if number <= NAMED_SPEAKERS:
            names = [_label(name) for name in order]
            longest = max(map(len, names))
            axes.set_xticks(range(number), names, rotation=90 if longest * number > 110 else 0, fontsize=8)
            axes.set_xlabel(f"Speaker, by {short}")
        else:
            axes.set_xticks([])
            axes.set_xlabel(f"{number} speakers, by {short}")
        axes.set_xlim(-0.7, number - 0.3)
        axes.set_ylim(0, 100 if factor == 100 else None)
        axes.set_ylabel(title)
        _clean(axes, "y")

    alt = f"{title} of {number} speakers, from {means[0]:.3g} to {means[-1]:.3g}; pooled {factor * pooled:.3g}"
    return _plot(draw, width=float(np.clip(2.5 + 0.35 * number, 4.5, 10.6)), height=3.1, alt=alt)


def scatter_plot(truth: Array, predicted: Array, *, name: str, ccc: float) -> Plot:
    """Prediction against truth, `(utterances,)` each, with the line on which both are equal."""
    both = np.concatenate([truth, predicted])
    low, high = float(both.min()), float(both.max())
    margin = 0.05 * (high - low) or 0.5

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        ends = (low - margin, high + margin)
        axes.plot(ends, ends, color=GREY, linestyle="--", linewidth=1)
        size = float(np.clip(120 / np.sqrt(len(truth)), 1.5, 5))
        axes.plot(truth, predicted, "o", color=BLUE, markersize=size, markeredgewidth=0, alpha=0.45)
        axes.text(0.03, 0.97, f"CCC {ccc:.3f}", transform=axes.transAxes, va="top", fontsize=10)
        axes.set(xlim=ends, ylim=ends, xlabel=f"True {_label(name)}", ylabel=f"Predicted {_label(name)}")
        axes.set_aspect("equal")
        _clean(axes, "y")

    alt = (
        f"Predicted against true {one_line(name)} of {len(truth)} utterances; truth from {truth.min():.3g} to "
        f"{truth.max():.3g}, predictions from {predicted.min():.3g} to {predicted.max():.3g}; CCC {ccc:.3f}"
    )
    return _plot(draw, width=4.2, height=3.9, alt=alt)


def reliability_plot(confidence: Array, accuracy: Array, count: Array, *, ece: float) -> Plot:
    """Accuracy against confidence in equal bins, with the number of answers in each below."""
    bins = len(count)
    left = np.arange(bins) / bins
    full = count > 0

    def draw(figure: Figure) -> None:
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
        axes.bar(left[full], 100 * accuracy[full], width=1 / bins, align="edge", color=BLUE, alpha=0.75, edgecolor="w")
        axes.plot([0, 1], [0, 100], color=GREY, linestyle="--", linewidth=1)
        axes.plot(confidence[full], 100 * accuracy[full], "o", color="black", markersize=3.5)
        axes.text(0.03, 94, f"ECE {100 * ece:.1f}", va="top", fontsize=10)
        axes.set_ylim(0, 100)
        axes.set_ylabel("Correct, percent")
        below.bar(left, count, width=1 / bins, align="edge", color=GREY, edgecolor="w")
        below.set_xticks(np.linspace(0, 1, 6), [f"{tick:.0f}" for tick in np.linspace(0, 100, 6)])
        below.set_xlim(0, 1)
        below.set_xlabel("Confidence (posterior of the answer), percent")
        below.set_ylabel("Answers")
        below.locator_params(axis="y", nbins=3)
        _clean(axes, "y")
        _clean(below, "y")

    alt = f"Reliability diagram; expected calibration error {100 * ece:.1f} percent"
    return _plot(draw, width=4.6, height=4.2, alt=alt)


def layer_plot(weights: Sequence[Sequence[float]], layers: Sequence[int]) -> Plot:
    """Learned weight of each layer: mean over trials, their standard deviation, and their extremes.

    Args:
        weights: One list a trial (fold and seed), one weight a layer.
        layers: Number of each layer in its encoder.
    """
    percentages = 100 * np.asarray(weights, dtype=np.float64)
    mean, spread = percentages.mean(0), percentages.std(0)
    places = np.arange(len(layers))

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.bar(places, mean, color=BLUE, alpha=0.75, width=0.75)
        if len(percentages) > 1:
            axes.errorbar(places, mean, yerr=spread, fmt="none", ecolor="black", elinewidth=1.3, capsize=3)
            for extreme in (percentages.min(0), percentages.max(0)):
                axes.plot(places, extreme, "_", color=ORANGE, markersize=6, markeredgewidth=1.3)
        axes.axhline(100 / len(layers), color=GREY, linestyle=":", linewidth=1.2)
        axes.set_xticks(places, [str(layer) for layer in layers], fontsize=9 if len(layers) <= 16 else 7.5)
        axes.set_ylim(0, None)
        axes.set_xlabel("Layer (0: input of the first)")
        axes.set_ylabel("Weight, percent")
        _clean(axes, "y")

    alt = "Mean layer weights in percent: " + ", ".join(
        f"layer {layer} {value:.1f}" for layer, value in zip(layers, mean, strict=True)
    )
    return _plot(draw, width=float(np.clip(1.6 + 0.28 * len(layers), 3.6, 8.5)), height=3.2, alt=alt)


def learning_plot(curves: Sequence[Mapping[str, Sequence[float]]]) -> Plot:
    """Training loss and validation metric by epoch: a thin line a trial, a thick one for their mean.

    The mean stands where at least half of the trials have not stopped.

    Args:
        curves: Values by epoch of each trial: `loss`, and a metric such as `validation_ua`.
    """
    names = list(curves[0])

    def draw(figure: Figure) -> None:
        several = figure.subplots(1, len(names), squeeze=False)[0]
        for axes, name, colour in zip(several, names, (BLUE, ORANGE), strict=False):
            lines = [np.asarray(curve[name], dtype=np.float64) for curve in curves]
            for line in lines:
                axes.plot(np.arange(1, len(line) + 1), line, color=colour, alpha=0.3, linewidth=0.8)
            mean = _mean_curve(lines)
            axes.plot(np.arange(1, len(mean) + 1), mean, color=colour, linewidth=2.4)
            axes.set_xlabel("Epoch")
            axes.set_ylabel(_curve_title(name))
            axes.locator_params(axis="x", integer=True)
            _clean(axes, "y")

    captions = []
    for name in names:
        mean = _mean_curve([np.asarray(curve[name], dtype=np.float64) for curve in curves])
        captions.append(f"{_curve_title(name)} from {mean[0]:.3g} to {mean[-1]:.3g} in {len(mean)} epochs")
    alt = f"Learning curves, mean over trials: {'; '.join(captions)}"
    return _plot(draw, width=3.9 * len(names), height=2.9, alt=alt)


def _mean_curve(lines: Sequence[Array]) -> Array:
    """Mean of lines of different length, up to where half of them have ended.

    Example:
        >>> _mean_curve([np.array([1.0, 2.0, 3.0]), np.array([3.0, 4.0]), np.array([2.0])]).tolist()
        [2.0, 3.0]
    """
    longest = sorted(map(len, lines))[len(lines) // 2]
    return np.array([np.mean([line[place] for line in lines if len(line) > place]) for place in range(longest)])


def _curve_title(name: str) -> str:
    """What a recorded number is called.

    Example:
        >>> _curve_title("loss"), _curve_title("validation_ua")
        ('Training loss', 'Validation UA')
    """
    metric = name.removeprefix("validation_")
    return "Training loss" if name == "loss" else f"Validation {metric.upper() if len(metric) < 4 else metric}"


_SLANTED: Mapping[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}


def _label(name: str) -> str:
    text = one_line(name)
    if len(text) > _LABEL:
        # Names of speakers and files differ at their ends.
        text = f"{text[: _LABEL // 2 - 1]}…{text[-_LABEL // 2 :]}"
    # Between dollars matplotlib would typeset mathematics, and fail on what is none.
    return text.replace("$", r"\$")


def _chance(line: Callable[..., Any], classes: int) -> None:
    line(100 / classes, color=GREY, linestyle=":", linewidth=1.2)


def _clean(axes: Axes, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis="x" if grid == "x" else "y", color="#dddddd", linewidth=0.7)


def _plot(draw: Callable[[Figure], None], *, width: float, height: float, alt: str) -> Plot:
    from matplotlib import font_manager, style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    installed = set(font_manager.get_font_names())
    fonts = ["DejaVu Sans", *(name for name in _FONTS if name in installed)]
    memory = io.BytesIO()
    # From matplotlib's own defaults: a reader's matplotlibrc (dark, TeX) must not change a run's plots.
    with style.context(["default", {"font.family": fonts, "font.size": 10}]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing", category=UserWarning)
        figure = Figure(figsize=(width, height), dpi=_DOTS, layout="constrained")
        draw(figure)
        # `savefig` would draw twice, the first time for the layout that drawing makes anyway.
        FigureCanvasAgg(figure).print_png(memory, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return Plot(memory.getvalue(), round(96 * width), round(96 * height), alt)
