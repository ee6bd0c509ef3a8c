"""The page, the table and the JSON of a recipe that ends with a step other than Evaluate, and figures of the
steps within a recipe."""

import json
import re

import pytest
from report.fake_root import epoch_metrics, fill, new_store, recipe
from report.made_up_figures import Ladder, commit_ladder, content, every_kind
from report.test_page import Page

from dgflow.report.page import render
from dgflow.report.summary import as_json, summarise, table
from dgflow.specs.figures import Table
from dgflow.specs.step import Result, ResultStep
from dgflow.store.receipts import CorruptObject


class Wrapper(ResultStep):
    """A step that reads a ladder and has no figures."""

    ladder: Result

    def compute(self, inputs, spread, store) -> bytes:
        return inputs.result("ladder")


@pytest.fixture
def ladder(finished):
    evaluation, store = finished
    target = Ladder(table=evaluation.result())
    commit_ladder(target, store)
    return target, store


def test_the_page_shows_the_arms_then_the_figures_then_steps_and_costs(ladder):
    text = render(*ladder)
    page = Page(text)
    assert page.open == []
    assert "<h1>Ladder of weights</h1>" in text
    places = [page.text.index(words) for words in ("weight 0", "FID by weight", "Time and cost", "ladder-")]
    assert places[:3] == sorted(places[:3])
    assert "29.25 ± 0.25" in page.text and "38.50 ± 0.25" in page.text
    assert len([tag for tag, _ in page.tags if tag == "svg"]) == len(every_kind()) - 2 + 1 + 1 + 8 + 3
    # without table and pictures: the ladder's figures, the clipped area of the plane, the trainings' charts,
    # the effect, and the arms by quantity


def test_there_is_no_section_of_samples_without_samples(ladder):
    text = render(*ladder)
    assert "#samples" not in text and 'id="samples"' not in text


def test_every_seed_of_every_arm_is_there(ladder):
    rows = re.findall(r"<tr>((?:<td>[^<]*</td>){4})</tr>", render(*ladder))
    cells = [re.findall(r"<td>([^<]*)</td>", row) for row in rows]
    assert cells[:4] == [
        ["weight 0", "1", "38.00", "0.000"],
        ["weight 0", "2", "39.00", ""],
        ["weight 1", "1", "29.00", ""],
        ["weight 1", "2", "29.50", ""],
    ]


def test_a_recipe_of_samples_is_warned_on_the_page_as_in_the_terminal(source, monkeypatch):
    def at_chance(step, epoch):
        known = epoch_metrics(step, epoch)
        return known | {"held_out_loss": 0.7} if step.kind == "train-discriminator" else known

    monkeypatch.setattr("report.fake_root.epoch_metrics", at_chance)
    target, store = recipe(source=source), new_store()
    fill(target, store)
    samples = target.arms["guided"][0]
    warning = "warning: train-discriminator: its held-out loss 0.7000 is that of chance, log 2 = 0.6931"
    assert warning in table(summarise(samples, store))
    result = render(samples, store).partition('id="result"')[2].partition('id="training"')[0]
    assert f"<li>{warning}" in result


def test_figures_of_a_step_within_the_recipe_have_a_section_with_its_title(ladder):
    inner, store = ladder
    text = render(Wrapper(ladder=inner.result()), store)
    assert re.search(r'<h2 id="figures">Figures</h2>\s*<h3>ladder of weights</h3>', text)
    assert '<a href="#figures">' in text and "FID by weight" in text
    assert "No result yet." in text


def test_the_page_of_an_evaluation_has_no_section_of_figures(finished):
    assert 'id="figures"' not in render(*finished)


def test_the_terminal_shows_arms_and_tables(ladder):
    lines = table(summarise(*ladder)).splitlines()
    assert re.split(r" {2,}", lines[0]) == ["", "FID", "Gain", "seeds"]
    assert re.split(r" {2,}", lines[2]) == ["weight 0", "38.50 ± 0.25", "0.000", "2"]
    assert re.split(r" {2,}", lines[3]) == ["weight 1", "29.25 ± 0.25", "2"]
    assert any("FID: lower is better; Gain: higher is better" in line for line in lines)
    assert any(re.match(r"1 \* +29\.25", line) for line in lines)


def test_the_json_has_the_file_of_the_step(ladder):
    found = json.loads(json.dumps(as_json(summarise(*ladder)), allow_nan=False))
    assert found["result"] == json.loads(content())
    assert found["arms"]["weight 1"]["fid"]["per_seed"] == [29.0, 29.5]


def test_a_step_whose_figures_begin_with_a_table_has_no_second_one(ladder, monkeypatch):
    own = Table("Own", ["weight", "FID"], [["1", "29.25"]])
    monkeypatch.setattr(Ladder, "figures", lambda self, content: [own])
    lines = table(summarise(*ladder)).splitlines()
    assert lines[0] == "Own" and not any("seeds" in line for line in lines)


def test_what_is_missing_is_told_and_the_step_is_not_told_to_end_with_evaluate(finished):
    evaluation, store = finished
    text = Page(render(Ladder(table=evaluation.result()), store)).text
    assert "ladder of weights: 0 of 1 result committed" in text and "No result yet." in text
    assert "end with Evaluate" not in text


def test_an_altered_file_is_an_error_and_not_a_figure(ladder):
    target, store = ladder
    entry = next(entry for entry in store.list(f"{target.name}/data"))
    store.put(entry.key, store.get(entry.key).replace(b"29.25", b"19.25"))
    for wanted in (target, Wrapper(ladder=target.result())):
        with pytest.raises(CorruptObject, match="verify"):
            render(wanted, store)
