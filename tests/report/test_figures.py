"""Drawings in a page: their ids stay apart, and their ink follows the theme."""

import re

from flextune.report.figures import as_svg, legend_columns, panels, themed


def drawing():
    figure, (axes,) = panels(1, 1, 2)
    axes.plot([0, 1], [0, 1])
    return figure


def test_two_drawings_share_no_id():
    one, two = (set(re.findall(r'id="([^"]+)"', themed(as_svg(drawing(), name)))) for name in ("one", "two"))
    assert one
    assert one.isdisjoint(two)


def test_what_is_referred_to_is_there():
    svg = themed(as_svg(drawing(), "one"))
    referred = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    assert referred
    assert referred <= set(re.findall(r'id="([^"]+)"', svg))


def test_the_file_is_the_same_every_time_and_the_page_has_its_own_ink():
    svg = as_svg(drawing(), "one")
    assert svg == as_svg(drawing(), "one")
    assert "#222222" in svg
    assert "#222222" not in themed(svg)
    assert "metadata" not in themed(svg)


def test_long_names_of_a_legend_get_lines_of_their_own():
    assert legend_columns(["plain", "l2"]) == 4
    assert legend_columns(["x" * 90]) == 1
