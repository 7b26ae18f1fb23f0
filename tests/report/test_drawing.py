"""Charts as SVG."""

from __future__ import annotations

import re

from pause_megatron.report.drawing import Line, draw_lines


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
