"""Charts as SVG."""

from __future__ import annotations

import re

import pytest
from matplotlib.collections import LineCollection

from pause_megatron.report.drawing import Bar, Line, bar_chart, draw_lines


def test_an_svg_element_has_unique_ids_no_size_and_no_external_reference() -> None:
    lines = [Line(label="a $x$ <b>", color="#0072b2", x=(0.0, 1.0), y=(1.0, 2.0))]
    one, again, two = (draw_lines(name, 'an "alt"', lines, "x", "y").element for name in ("one", "one", "two"))
    assert one == again
    ids = [set(re.findall(r'\bid="([^"]*)"', svg)) for svg in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert set(re.findall(r'(?:url\(#|href="#)([^")]*)', one)) <= ids[0]
    assert "http" not in one
    assert "a $x$ &lt;b&gt;" in one
    assert re.match(r"<svg [^>]*viewBox=[^>]*role=\"img\" aria-label='an \"alt\"'>", one)
    assert not re.match(r"<svg [^>]*\b(width|height)=", one)


def test_lines_of_the_same_colour_have_different_dashes() -> None:
    lines = [Line(label=label, color="#0072b2", x=(0.0, 1.0), y=(1.0, 2.0)) for label in ("a", "b")]
    assert "stroke-dasharray: 5" in draw_lines("chart", "alt", lines, "x", "y").element
    assert "stroke-dasharray: 5" not in draw_lines("chart", "alt", lines[:1], "x", "y").element


@pytest.mark.parametrize("chance", [0.0, 25.0, 49.0, 52.0, 60.0])
def test_no_line_crosses_a_value_of_a_bar_chart(chance: float) -> None:
    """The values stood right of the whiskers, where the chance line crossed those of bars below chance level."""
    bars = [
        Bar(
            label="StdPT_StdFT", color="#0072b2", length=length, interval=(length - 9, length + 9), text=f"{length:.1f}"
        )
        for length in (9.0, 16.0, 34.0, 51.0)
    ]
    figure = bar_chart(bars, "exact_match in %", chance)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    texts = [one for one in axes.texts if one.get_text()]
    assert [one.get_text() for one in texts] == ["9.0", "16.0", "34.0", "51.0", "chance level"]
    whiskers = [collection for collection in axes.collections if isinstance(collection, LineCollection)]
    paths = [line.get_transform().transform_path(line.get_path()) for line in axes.lines]
    paths += [axes.transData.transform_path(path) for whisker in whiskers for path in whisker.get_paths()]
    assert len(paths) >= 4 * 2 + 1  # whiskers with their caps, and the chance line
    for text in texts:
        box = text.get_window_extent()
        assert not any(path.intersects_bbox(box, filled=False) for path in paths), text.get_text()
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
