"""The first screen of the page: changes between arms with their intervals, against closed forms, and the
resulting words."""

import math
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from report.fake_root import FID, fill, new_store, recipe
from report.made_up_figures import Ladder

from dgflow.report.effects import Effect, base_of, effects
from dgflow.report.figures.axis import Axis
from dgflow.report.figures.dots import LEFT, Dot, Dots, draw_dots
from dgflow.report.figures.frame import RIGHT
from dgflow.report.figures.svg import WIDTH
from dgflow.report.page import render
from dgflow.report.summary import summarise, table
from dgflow.report.verdict import sentence, verdict
from dgflow.specs.figures import Metric
from dgflow.testing.smoke_root import MARK, MEANINGLESS

T_OF_TWO = 4.302652729749  # Student's t with 2 degrees of freedom, 97.5%: from a printed table
LOWER = Metric("FID", 2)


def values(per_seed, errors=()):
    known = {"mean": sum(per_seed) / len(per_seed), "spread": None, "per_seed": per_seed}
    return known | ({"errors": list(errors)} if errors else {})


def ladder(source, **arms):
    return Ladder(table=recipe(source=source).result()), arms


def test_a_change_over_paired_seeds_has_the_interval_of_student(finished):
    outcome = summarise(*finished).outcome
    assert outcome is not None
    (effect,) = effects(outcome.step, outcome.arms)
    changes = [ours - theirs for ours, theirs in zip(FID["guided"], FID["unguided"], strict=True)]
    mean = sum(changes) / 3
    spread = math.sqrt(sum((each - mean) ** 2 for each in changes) / 2)
    assert (effect.arm, effect.base) == ("guided", "unguided")
    assert effect.change == pytest.approx(mean)
    assert effect.half == pytest.approx(T_OF_TWO * spread / math.sqrt(3))
    assert effect.verdict == "better"


def test_one_seed_with_standard_errors_has_a_normal_interval_and_without_them_none(source):
    step, arms = ladder(source, plain={"fid": values([4.0], [0.3])}, other={"fid": values([3.0], [0.4])})
    (effect,) = effects(step, arms)
    assert effect.half == pytest.approx(1.959963984540054 * 0.5)
    (effect,) = effects(step, {"plain": {"fid": values([4.0])}, "other": {"fid": values([3.0])}})
    assert effect.half is None and effect.verdict == "unknown" and effect.words == "−1.00"


def test_the_quantity_whose_change_has_an_interval_is_taken(source):
    step, arms = ladder(
        source,
        plain={"fid": values([4.0]), "gain": values([1.0, 1.2])},
        other={"fid": values([3.0]), "gain": values([2.0, 2.3])},
    )
    assert [each.metric.heading for each in effects(step, arms)] == ["Gain"]


@pytest.mark.parametrize(
    ("change", "half", "lower", "expected"),
    [
        (-1.0, 0.5, True, "better"),
        (-1.0, 0.5, False, "worse"),
        (1.0, 0.5, True, "worse"),
        (-1.0, 1.0, True, "unclear"),
        (0.0, 0.0, True, "unclear"),
        (-1.0, None, True, "unknown"),
    ],
)
def test_the_verdict_follows_from_direction_and_interval(change, half, lower, expected):
    metric = replace(LOWER, lower_is_better=lower)
    assert Effect("guided", "unguided", metric, 3.0, 3.0 + change, half, "").verdict == expected


def test_words_have_the_decimals_of_the_metric_and_a_true_minus_sign():
    effect = Effect("guided", "unguided", LOWER, 3.19, 1.41, 0.4, "")
    assert effect.words == "−1.78 (−2.18 to −1.38)"
    assert sentence(effect) == "guided lowers FID from 3.19 to 1.41."


def test_the_base_is_an_arm_without_guidance_whatever_the_order(source):
    target = recipe(source=source)
    arms = dict(reversed(target.arms.items()))
    assert list(arms)[0] == "guided" and base_of(target, arms) == "unguided"


def test_the_first_screen_counts_the_arms_where_they_differ(source):
    target, store = recipe(source=source, discriminators=3), new_store()
    fill(target, store)
    found = verdict(summarise(target, store))
    assert found is not None
    assert found["kind"] == "better" and found["number"] == "−10.37 to −8.43"
    assert len(found["lines"]) == 3 and found["figure"].count('class="interval') == 3


def test_a_smoke_run_gets_no_verdict_and_a_single_warning(finished):
    target, store = finished
    assert "lowers FID" in table(summarise(target, store)) and "lowers FID" in render(target, store)
    store.put(MARK, b"{}")
    summary = summarise(target, store)
    text = table(summary)
    assert verdict(summary) is None and "lowers FID" not in text and "lowers FID" not in render(target, store)
    assert text.count("warning: ") == 1 and text.splitlines()[-1] == f"warning: {MEANINGLESS}"


def test_dots_and_intervals_lie_at_their_values():
    rows = [Dot("a", -2.0, "−2", 0.5), Dot("b", 1.0, "1", None, (0.5, 1.5))]
    svg = ElementTree.fromstring(draw_dots(Dots("Change", rows, "x", (0.0, "no change"))).element)
    axis = Axis.over([-2.5, 0.0, 1.5], margin=0.06).placed(LEFT, WIDTH - RIGHT)
    dots = [float(each.attrib["cx"]) for each in svg.iter("circle") if each.attrib["class"].startswith("dot")]
    singles = [float(each.attrib["cx"]) for each in svg.iter("circle") if "single" in each.attrib["class"]]
    assert dots == [axis.at(-2.0), axis.at(1.0)] and singles == [axis.at(0.5), axis.at(1.5)]
    (interval,) = [each for each in svg.iter("path") if "interval" in each.attrib["class"]]
    assert interval.attrib["d"].startswith(f"M{axis.at(-2.5):g} ")
    assert f"H{axis.at(-1.5):g}M" in interval.attrib["d"]
    assert svg.attrib["aria-label"] == "Change: a −2; b 1"
