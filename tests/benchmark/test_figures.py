"""What a reader must be able to read of the figures: every name, whole, and none across another."""

import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from monai_mammo.benchmark import figures, results
from monai_mammo.benchmark.analysis import Analysis

LONG = "ResNet34 + parallel attention + Kolmogorov-Arnold head with a low rank"
TITLES = [f"{LONG} {number}" for number in range(8)] + ["DenseNet121", "a rule of borders", "x" * 120]


def analysis_of(titles, task="quality") -> Analysis:
    """A test of ten patients by systems of these titles."""
    entries = [{"image": f"{number}.png", "label": number % 2, "patient": f"P{number // 4}"} for number in range(40)]

    def entrant(number: int, title: str) -> results.Entrant:
        chance = np.random.default_rng(number)
        records = [
            {
                "label": entry["label"],
                "probability": float(chance.uniform()),
                "candidates": [(0.9, 1), (0.4, 0)],
                "lesions": 1,
                "patient": entry["patient"],
                "image": entry["image"],
            }
            for entry in entries
        ]
        return results.Entrant(f"system_{number}", title, {0: records}, {}, "1 of 1")

    entrants = [entrant(number, title) for number, title in enumerate(titles)]
    return Analysis(task, results.Test("test", "", "test", entries, {}, entrants), "system_0", resamples=20)


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are saved, as they were saved."""
    kept: list[Figure] = []
    save = Figure.savefig

    def keeping(figure, *args, **more):
        save(figure, *args, **more)
        kept.append(figure)

    monkeypatch.setattr(Figure, "savefig", keeping)
    return kept


def boxes(figure: Figure, texts: list[Text]):
    """Where texts stand, in pixels; the layout is that of the file."""
    return [text.get_window_extent(figure.canvas.get_renderer()) for text in texts]


def check_readable(figure: Figure) -> None:
    """Every title and every legend lies in the picture, and no title touches another."""
    titles = [part for axes in figure.axes for part in (axes.title, axes._left_title) if part.get_text()]
    legends = list(figure.legends)
    for box in [*boxes(figure, titles), *(legend.get_window_extent() for legend in legends)]:
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
    assert not any(first.overlaps(other) for first, other in itertools.combinations(boxes(figure, titles), 2))
    for axes in figure.axes:
        assert not any(axes.bbox.overlaps(legend.get_window_extent()) for legend in legends)


@pytest.mark.parametrize("titles", [TITLES, TITLES[:1], [f"net {number}" for number in range(11)]])
@pytest.mark.parametrize("figure", [figures.roc_and_calibration, figures.confusion, figures.froc])
def test_every_name_can_be_read(drawn, figure, titles):
    figure(analysis_of(titles))
    check_readable(drawn[0])


def test_the_legend_holds_every_system_with_its_numbers(drawn):
    figures.roc_and_calibration(analysis_of(TITLES))
    texts = [text.get_text().replace("\n", " ") for text in drawn[0].legends[0].get_texts()]
    assert len(texts) == len(TITLES)
    assert all("AUC" in text and "calibration error" in text for text in texts)
    assert [LONG in text for text in texts] == [LONG in title for title in TITLES]


def test_a_longer_legend_takes_no_room_from_the_plots(drawn):
    for titles in (TITLES[:1], TITLES):
        figures.roc_and_calibration(analysis_of(titles))
    few, many = (figure.axes[0].bbox.height for figure in drawn)
    assert many == pytest.approx(few, rel=0.1)
