"""The page for keyboard and screen reader: headings in order, names of all focusable elements, tables with
headers, and legible colours in both schemes."""

import re
from pathlib import Path

import pytest
from report.fake_root import fill, new_store, recipe, write_source
from report.test_page import Page
from report.test_strips import leave_strips

import dgflow.report
from dgflow.report.page import render

STYLE = (Path(dgflow.report.__path__[0]) / "style.html").read_text()
TEXT, GRAPHIC = 4.5, 3.0  # minimum contrast by WCAG 2.2, success criteria 1.4.3 and 1.4.11


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    target = recipe(source=write_source(tmp_path_factory.mktemp("source") / "digits.npz"))
    fill(target, store := new_store())
    leave_strips(target, store)
    return render(target, store)


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_headings_come_in_order_and_there_is_one_title(page):
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


def test_all_that_can_be_reached_has_a_name_and_names_of_regions_differ(page):
    regions = [attributes for _, attributes in page.tags if attributes.get("role") == "region"]
    assert all(attributes["tabindex"] == "0" and attributes["aria-label"] for attributes in regions)
    names = [attributes["aria-label"] for attributes in regions]
    assert len(set(names)) == len(names)
    labelled = {attributes["aria-labelledby"] for tag, attributes in page.tags if tag == "section"}
    assert labelled <= {attributes.get("id") for _, attributes in page.tags}
    assert all(attributes.get("lang") for tag, attributes in page.tags if tag == "html")


def test_every_head_of_a_table_has_words_and_a_scope(text):
    heads = re.findall(r"<th(\s[^>]*|)>(.*?)</th>", text, re.DOTALL)
    assert len(heads) > 30
    assert all("scope=" in attributes and words.strip() for attributes, words in heads)


def scheme(text):
    return dict(re.findall(r"--([\w]+): (#[0-9a-f]{6})", text))


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_the_guidelines():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("dark", [False, True])
def test_words_and_marks_stand_out_in_both_schemes(dark):
    light = scheme(STYLE.partition("@media")[0])
    colours = light | (scheme(STYLE.partition("@media")[2].partition("* {")[0]) if dark else {})
    for ground in ("page", "panel"):
        for name in ("ink", "soft", "accent", "good", "bad"):
            assert contrast(colours[name], colours[ground]) >= TEXT, (name, ground)
        for number in range(8):
            assert contrast(colours[f"c{number}"], colours[ground]) >= GRAPHIC, (number, ground)
