"""Figures as SVG: positions that follow from the numbers, captions inside and without overlap, looks that
differ without colour, and equal text for equal numbers."""

import itertools
import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from report.made_up_figures import DOT, HOSTILE, WEIGHTS, every_kind

from dgflow.report.figures.draw import drawn
from dgflow.report.figures.svg import NAME_SIZE, SIZE, text_width
from dgflow.specs.figures import Cloud, Curve, Figure, HeatMap, Lines, Pictures, PlanePlot, Table

KINDS = {f"{type(figure).__name__} {number}": figure for number, figure in enumerate(every_kind())}
DRAWN = {name: figure for name, figure in KINDS.items() if not isinstance(figure, Table | Pictures)}


def svg_of(figure: Figure) -> Any:
    """Returns the root element of a drawing."""
    found = re.search(r"<svg.*</svg>", drawn(figure))
    assert found is not None
    return ElementTree.fromstring(found[0])


def boxes(svg: Any) -> dict[str, tuple[float, float, float, float]]:
    """Returns left, right, top and bottom of every text, by its words and place."""
    found = {}
    for text in svg.iter("text"):
        kind, words = text.attrib["class"], text.text or ""
        is_name = kind == "name"
        width = text_width(words, NAME_SIZE if is_name else SIZE, bold=is_name)
        x, y = float(text.attrib["x"]), float(text.attrib["y"])
        left = x - {"start": 0, "middle": width / 2, "end": width}[text.attrib.get("text-anchor", "start")]
        found[f"{words} at {x:g}, {y:g}"] = (left, left + width, y - 9, y + 2.5)
    return found


@pytest.mark.parametrize("figure", DRAWN.values(), ids=DRAWN)
def test_all_words_lie_inside_their_figure(figure):
    svg = svg_of(figure)
    _, _, width, height = map(float, svg.attrib["viewBox"].split())
    for words, (left, right, top, bottom) in boxes(svg).items():
        assert left >= -1 and right <= width + 1 and top >= 0 and bottom <= height, words


@pytest.mark.parametrize("figure", DRAWN.values(), ids=DRAWN)
def test_no_two_texts_overlap(figure):
    for (one, a), (other, b) in itertools.combinations(boxes(svg_of(figure)).items(), 2):
        assert a[1] <= b[0] or b[1] <= a[0] or a[3] <= b[2] or b[3] <= a[2], (one, other)


@pytest.mark.parametrize("figure", KINDS.values(), ids=KINDS)
def test_the_same_numbers_give_the_same_bytes_and_nothing_of_them_is_markup(figure):
    assert drawn(figure) == drawn(figure)
    assert "<script" not in drawn(figure) and "<b>" not in drawn(figure)
    assert not re.search(r"url\(|href|https?:", drawn(figure))


@pytest.mark.parametrize("figure", DRAWN.values(), ids=DRAWN)
def test_a_figure_and_its_marks_have_words(figure):
    svg = svg_of(figure)
    assert svg.attrib["role"] == "img" and svg.attrib["aria-label"].startswith(figure.title)
    marks = [mark for mark in svg.iter("path") if mark.get("class", "").startswith("dot")]
    in_plot = [mark for mark in marks if mark.find("title") is not None]
    assert len(in_plot) > 0 if isinstance(figure, Lines) else svg.find(".//title") is not None


def test_error_bars_span_the_error_on_both_sides():
    figure = Lines("FID", [Curve("guided", WEIGHTS, [4.0, 3.0, 1.0, 2.0], [0.5, 1.0, 0.25, 0.0])], "weight")
    svg = svg_of(figure)
    bars = re.findall(r"M([\d.]+) ([\d.]+)V([\d.]+)", svg.find("path[@class='error c0']").attrib["d"])
    at = np.array([point.split(",") for point in svg.find("polyline").attrib["points"].split()], float)
    per_unit = (at[2, 1] - at[0, 1]) / (4.0 - 1.0)  # user units per unit of FID
    assert len(bars) == 3  # the last error is 0
    for (x, low, high), place, error in zip(np.array(bars, float), at, (0.5, 1.0, 0.25), strict=False):
        assert x == place[0]
        assert (low - high) / 2 == pytest.approx(error * per_unit, abs=0.1)
        assert (low + high) / 2 == pytest.approx(place[1], abs=0.1)


def test_eight_curves_differ_without_colour():
    svg = svg_of(next(figure for figure in KINDS.values() if isinstance(figure, Lines)))
    lines = [line for line in svg.iter("polyline") if len(line.attrib["points"].split()) > 2]
    marks = [mark for mark in svg.iter("path") if mark.get("class", "").startswith("dot") and len(mark)]
    markers = {int(mark.attrib["class"][-1]): mark.attrib["d"] for mark in marks}
    looks = {(line.get("stroke-dasharray"), markers[int(line.attrib["class"][-1])]) for line in lines}
    assert len(lines) == len(looks) == 8


def test_curves_of_a_second_round_have_markers_of_their_own_in_the_same_colours():
    curves = [Curve(f"{number}", [1, 2], [number, number]) for number in range(16)]
    dots = [mark for mark in svg_of(Lines("KL", curves, "weight")).iter("path") if "dot" in mark.get("class")]
    looks = {(dot.attrib["class"], dot.attrib["d"]) for dot in dots if len(dot)}
    assert len(looks) == 16 and {kind for kind, _ in looks} == {f"dot c{colour}" for colour in range(8)}


def test_the_points_of_a_front_are_ringed_and_joined_where_they_lie():
    curve = Curve("guided", [1.0, 10.0, 100.0], [4.0, 3.0, 1.0])
    front = ([(1.0, 4.0), (100.0, 1.0)], "Pareto front")
    svg = svg_of(Lines("FID", [curve], "cost", log_x=True, front=front))
    (line,) = svg.findall("polyline[@class='front']")
    points = svg.find("polyline[@class='line c0']").attrib["points"].split()
    assert line.attrib["points"].split() == [points[0], points[2]]
    rings = [f"{ring.get('cx')},{ring.get('cy')}" for ring in svg.findall("circle")]
    assert set(rings) >= {points[0], points[2]} and len(rings) == 3  # and those in the legend


def test_dashes_mean_what_their_author_says_where_one_curve_is_dashed():
    styles: dict[str, Any] = {"learned": "line", "other": "line", "exact": "dashed"}
    curves = [Curve(name, [1, 2], [1, 2], style=style) for name, style in styles.items()]
    lines = list(svg_of(Lines("KL", curves, "weight")).iter("polyline"))[:3]  # those of the legend come last
    assert [line.get("stroke-dasharray") is not None for line in lines] == [False, False, True]


def test_points_that_a_logarithmic_axis_cannot_show_are_left_out():
    figure = Lines("KL", [Curve("a", [1, 2, 3], [1.0, 0.0, 4.0])], "weight", log_y=True)
    assert len(svg_of(figure).find("polyline").attrib["points"].split()) == 2
    assert "no value to show" in drawn(Lines("KL", [Curve("a", [1], [-1.0])], "weight", log_y=True))


@pytest.mark.parametrize(
    ("lower_is_better", "expected"), [(True, [0.05, 0.6, 0.325]), (False, [0.6, 0.05, 0.325])]
)
def test_the_strongest_cell_is_the_best_and_marked_cells_are_framed(lower_is_better, expected):
    texts = [["3", "1"], ["2", ""]]
    figure = HeatMap("FID", "x", "y", "ab", "cd", [[3, 1], [2, None]], texts, [(0, 1)], lower_is_better)
    cells = [group for group in svg_of(figure).iter("g") if group.find("title") is not None]
    shades = [cell.find("rect").get("fill-opacity") for cell in cells]
    assert [float(shade) for shade in shades[:3]] == pytest.approx(expected, abs=0.01)
    assert shades[3] is None  # no value, no shade
    marked = [cell.find("title").text for cell in cells if "marked" in cell.attrib["class"]]
    assert marked == ["y c, x b: 1, marked"]


def test_a_plane_has_one_scale_and_clouds_lie_where_their_points_are():
    figure = PlanePlot("p", (-4.0, 4.0), (-2.0, 2.0), [Cloud("data", [(0.0, 0.0), (2.0, 1.0), (9.0, 0.0)])])
    svg = svg_of(figure)
    area = svg.find("svg")
    width, height = float(area.attrib["width"]), float(area.attrib["height"])
    assert width / 8 == pytest.approx(height / 4, rel=1e-3)
    points = [re.findall(r"M([\d.-]+) ([\d.-]+)", path.attrib["d"])[0] for path in area.iter("path")]
    assert np.array(points, float) == pytest.approx(
        np.array([[width / 2, height / 2], [width * 6 / 8, height / 4]]), abs=0.1
    )
    assert area.find("g/title").text == "data: 2 of 3 points are in view"


def test_arrows_have_the_scale_that_is_given_and_tell_it():
    arrows = [((0.0, 0.0), (3.0, 0.0)), ((0.0, 0.0), (0.0, -1.5))]
    svg = svg_of(PlanePlot("p", (-4, 4), (-4, 4), arrows=arrows, arrow_scale=0.5))
    area = svg.find("svg")
    unit = float(area.attrib["width"]) / 8
    first, second = re.findall(r"M[\d.]+ [\d.]+l([\d.-]+) ([\d.-]+)", area.find("path").attrib["d"])
    assert np.array([first, second], float) == pytest.approx(
        np.array([[1.5 * unit, 0], [0, 0.75 * unit]]), abs=0.1
    )
    told = next(text.text for text in svg.iter("text") if text.text.startswith("length"))
    sample = next(path for path in svg.findall("path") if path.get("class") == "arrow")
    (length,) = re.findall(r"^M0.0 0.0l([\d.]+)", sample.attrib["d"])
    assert float(length) == pytest.approx(float(told.split()[1]) * 0.5 * unit, abs=0.1)


def test_a_marked_row_has_a_star_unless_its_cells_have_one():
    table = Table("", ["w", "FID"], [["1", "29"], ["2", "28 *"], ["3", "30"]], marked=[0, 1])
    cells = re.findall(r"<th scope=\"row\">(.*?)</th><td>(.*?)</td>", drawn(table))
    assert cells == [("1 *", "29"), ("2", "28 *"), ("3", "30")]


def test_hostile_words_are_words():
    shown = "".join(drawn(figure) for figure in KINDS.values())
    assert HOSTILE.replace("'", "&#x27;").replace("<", "&lt;").replace(">", "&gt;") in shown


def test_a_logarithmic_axis_names_the_few_values_of_a_parameter():
    figure = Lines("FID", [Curve("guided", [0.25, 0.5, 1, 4], [3, 2, 1, 4])], "weight", log_x=True)
    ticks = [text.text for text in svg_of(figure).iter("text") if text.get("text-anchor") == "middle"]
    assert ticks == ["0.25", "0.5", "1", "4", "weight"]


def test_curves_of_one_group_share_a_colour_and_differ_in_their_marker():
    curves = [
        Curve("exact", [1, 2], [1, 2], group="exact"),
        Curve("learned", [1, 2], [2, 3], group="learned"),
        Curve("exact, estimated", [1, 2], [1, 2], style="points", group="exact"),
    ]
    marks = [mark for mark in svg_of(Lines("KL", curves, "weight")).iter("path") if len(mark)]
    assert [mark.attrib["class"] for mark in marks[::2]] == ["dot c0", "dot c1", "dot c0"]
    assert len({mark.attrib["d"] for mark in marks}) == 3


def test_a_single_curve_or_cloud_is_named_unless_the_title_tells_it():
    def texts(figure: Figure) -> list[str]:
        return [text.text for text in svg_of(figure).iter("text")]

    assert "bce" in texts(Lines("Error by noise level", [Curve("bce", [1, 2], [1, 2])], "sigma"))
    assert "held-out" not in texts(Lines("held-out accuracy", [Curve("held-out", [1, 2], [1, 2])], "epoch"))
    assert "guided" in texts(PlanePlot("Samples", (0, 1), (0, 1), [Cloud("guided", [(0.5, 0.5)])]))
    assert "data" not in texts(PlanePlot("The data", (0, 1), (0, 1), [Cloud("data", [(0.5, 0.5)])]))


def test_pictures_have_words_and_are_magnified_by_a_whole_factor():
    figure = Pictures("Averages", ["image", "sigma 1"], [("1, guided", [DOT, None])], side=24)
    element = drawn(figure)
    assert element.count("<img") == 1 and 'width="48"' in element and 'alt="1, guided, image"' in element
    assert DOT in element
    with pytest.raises(ValueError, match="base64"):
        drawn(Pictures("Averages", ["image"], [("1", ['" onload="x'])], side=24))
