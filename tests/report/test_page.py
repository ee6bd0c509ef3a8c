"""The page: self-contained, escaped, equal for equal roots, with the table's numbers; and the page of an
incomplete root."""

import base64
import hashlib
import html
import io
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from report.fake_root import SHARD, digits, epoch_metrics, fill, new_store, recipe, write_source

from dgflow.diffusion.gain_curve import GainCurve, LevelGain, MeasuredGain
from dgflow.engine.plan import plan
from dgflow.engine.root import Root
from dgflow.report.charts import draw_chart, line_chart
from dgflow.report.page import render
from dgflow.report.page_file import PAGE, page_of, put_page
from dgflow.report.summary import as_json, summarise
from dgflow.specs.figures import Curve
from dgflow.specs.train_step import TrainStep
from dgflow.store.runs import Asked, RunRecord, record_key

HOSTILE = "</pre><script>alert('x')</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """The page's tags with their attributes, and the text."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_nothing_is_fetched_from_elsewhere(finished):
    text = render(*finished)
    page = Page(text)
    addresses = [
        value or ""
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "xlink:href", "data")
    ]
    assert addresses
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in addresses)
    assert not re.search(r"url\(|@import|https?://|fetch\(|XMLHttpRequest|import\(", text)
    assert not {"link", "iframe", "object"} & {tag for tag, _ in page.tags}


def test_the_policy_allows_the_only_script_of_the_page_by_its_digest(finished):
    text = render(*finished)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    rules = dict(rule.split(" ", 1) for rule in html.unescape(policy).split("; "))
    assert rules["default-src"] == "'none'" and rules["script-src"] == f"'sha256-{digest}'"
    assert not re.search(r"\son\w+=|javascript:", text)


def test_every_tag_is_closed_and_every_link_leads_somewhere(finished):
    page = Page(render(*finished))
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["href"] for tag, attributes in page.tags if tag == "a"} <= {f"#{name}" for name in ids}


def test_every_image_and_chart_has_words(finished):
    tags = Page(render(*finished)).tags
    images = [attributes for tag, attributes in tags if tag == "img"]
    charts = [attributes for tag, attributes in tags if tag == "svg"]
    assert len(images) == 3 and all(attributes["alt"] for attributes in images)
    assert len(charts) == 1 + 4 + 1 + 2 + 2 + 3
    # the effect; the arms by metric; score loss; judge loss, accuracy; discriminator loss, accuracy; three by
    # noise level
    assert all(attributes["aria-label"] for attributes in charts)


def test_the_page_shows_the_numbers_of_the_json(finished):
    text = Page(render(*finished)).text
    for arm in as_json(summarise(*finished))["arms"].values():
        assert f"{arm['fid']['mean']:.2f} ± {arm['fid']['spread']:.2f}" in text
        assert all(f"{value:.3f}" in text for value in arm["recall"]["per_seed"])


def rows_of_the_table(text: str) -> list[str]:
    """Returns the rows of the result's table as written."""
    text = text.partition('<table class="result')[2].partition("</table>")[0]
    return re.findall(r"<tr[^>]*><th scope=\"row\">.*?</tr>", text)


def test_the_floor_alone_is_set_apart_so_that_without_one_no_arm_is(finished, tmp_path):
    target, store = finished
    apart = ['class="floor"' in row for row in rows_of_the_table(render(target, store))]
    assert apart == [False, False, True]
    without, other = target.model_copy(update={"floor": None}), new_store()
    fill(without, other)
    assert ['class="floor"' in row for row in rows_of_the_table(render(without, other))] == [False, False]


ASKED = Asked(
    recipe="digits",
    file="digits.py",
    about=f"Digits from training to table. Takes minutes.\n\nAnd more: {HOSTILE}",
    options={"guidance_weight": 1.0, "samples": 500},
    changed=("guidance_weight",),
    command=("digits.py", "--guidance-weight", "1", "--root", "my runs"),
    commit="0b64d1da4e-dirty",
)


def test_the_page_tells_recipe_parameters_command_and_code_of_the_latest_run(finished):
    target, store = finished
    for number, (command, outcome) in enumerate([((), "failed"), (ASKED.command, "done")]):
        record = RunRecord(
            id=f"20260101-00000{number}-abcdef",
            asked=ASKED.model_copy(update={"command": command}),
            target=target.name,
            steps=(),
            version="0.2.0",
            host="h",
            pid=1,
            started=1.0,
            outcome=outcome,
        )
        store.put(record_key(record.id), record.model_dump_json().encode())
    page = Page(render(target, store))
    assert page.open == []
    assert "<h1>digits</h1>" in render(target, store)
    for words in (
        "Digits from training to table.",
        "--guidance-weight 1.0",
        "digits.py --guidance-weight 1 --root 'my runs'",
        "dgflow 0.2.0, commit 0b64d1da4e-dirty",
        f"And more: {HOSTILE}",
        "--samples",
    ):
        assert words in page.text


def test_without_a_record_the_page_tells_the_recipe_and_no_command(finished):
    target, store = finished
    text = Page(render(target, store, ASKED)).text
    assert "Digits from training to table." in text and "--guidance-weight 1.0" in text
    assert "my runs" not in text and ", commit " not in text


def test_each_grid_can_be_enlarged_without_a_script(finished):
    tags = Page(render(*finished)).tags
    boxes = [attributes for tag, attributes in tags if tag == "input"]
    assert [box["aria-label"] for box in boxes] == [
        f"Enlarge {name}" for name in ("unguided", "guided", "real (reference)")
    ]
    for attributes in (attributes for tag, attributes in tags if tag == "img"):
        large = re.fullmatch(r"--size: (\d+)px", attributes["style"] or "")
        assert large and int(large[1]) >= 2 * int(attributes["width"] or 0)


def test_each_of_several_variants_keeps_a_page_of_its_own_with_a_link_to_the_index(finished):
    target, store = finished
    first, other = render(target, store).encode(), target.model_copy(update={"floor": None})
    second = render(other, store).encode()
    assert put_page(store, target.name, first) is None
    assert store.get(PAGE) == first and page_of(target.name) not in store.names()
    assert put_page(store, other.name, second) == target.name
    link = b' <a href="index.html">All variants</a>'
    linked = [page.replace(b"<!-- no index -->", link) for page in (first, second)]
    assert [store.get(page_of(each.name)) for each in (target, other)] == linked
    assert store.get(PAGE) == linked[1] and link in linked[0]
    assert put_page(store, target.name, first) == other.name
    assert store.get(PAGE) == store.get(page_of(target.name)) == linked[0]
    assert store.get(page_of(other.name)) == linked[1]


def test_grids_hold_the_first_images_of_each_arm_and_of_the_reference(finished):
    target, store = finished
    uris = [attributes["src"] or "" for tag, attributes in Page(render(target, store)).tags if tag == "img"]
    grids = [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))) for uri in uris]
    reference = np.concatenate([digits(SHARD, seed=1), digits(SHARD, seed=2)])[
        50:114
    ]  # real[150:214], in shards 1 and 2
    for grid, images in zip(
        grids, [digits(SHARD, seed=101_000)[:64], digits(SHARD, seed=101_000)[:64], reference], strict=True
    ):
        assert grid.shape == (8 * 17 - 1, 8 * 17 - 1, 4)
        cells = np.stack(
            [
                grid[17 * row : 17 * row + 16, 17 * column : 17 * column + 16]
                for row in range(8)
                for column in range(8)
            ]
        )
        assert (cells[..., :3] == images).all()
        assert (cells[..., 3] == 255).all()


def test_the_chosen_epoch_of_the_discriminator_is_marked(finished):
    page = Page(render(*finished))
    assert "used: epoch 12 of 20 (best held_out_loss)" in page.text
    assert "12, used" in page.text


def test_every_step_shows_its_configuration_and_fingerprint(finished):
    target, store = finished
    text = Page(render(target, store)).text
    for made in plan(target, store):
        assert made.step.fingerprint in text
        assert json.dumps(made.step.document(), indent=2, ensure_ascii=False) in text
    assert "epochs = 20" in text  # not part of identity, and so not in the document


def test_the_same_root_gives_the_same_page(finished):
    assert render(*finished) == render(*finished)


def test_hostile_text_from_the_store_and_from_paths_is_escaped(tmp_path):
    target, store = recipe(source=write_source(tmp_path / f"{HOSTILE.replace('/', ' ')}.npz")), new_store()
    fill(target, store, leave_out=[("generate seed 102, guided by discriminator", 1)])
    (made,) = [
        made
        for made in plan(target, store)
        if made.step.title == "generate seed 102, guided by discriminator"
    ]
    Root(store).step_store(made.step).note_attempt(
        "shards", 1, {"host": HOSTILE, "started": 1.0, "error": HOSTILE}
    )
    text = render(target, store)
    page = Page(text)
    assert HOSTILE in page.text
    assert text.count("<script") == 1 and "<img src=x" not in text
    assert page.open == []


def test_an_incomplete_root_shows_what_is_there_and_says_what_is_missing(tmp_path):
    target, store = recipe(source=write_source(tmp_path / "digits.npz")), new_store()
    fill(
        target, store, leave_out=[("generate seed 101, guided by discriminator", 0), ("train-classifier", 8)]
    )
    page = Page(render(target, store))
    assert "generate seed 101, guided by discriminator: 1 of 2 shards committed" in page.text
    assert "train-classifier: 7 of 8 epochs committed" in page.text
    assert "No result yet." in page.text
    assert "indices 100 to 163" in page.text  # of the arm whose first shard is missing
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 3


def test_an_empty_root_gives_a_page(tmp_path):
    page = Page(render(recipe(source=write_source(tmp_path / "digits.npz")), new_store()))
    assert "import-images: 0 of 3 shards committed" in page.text
    assert page.text.count("not made yet") == 3
    assert page.open == []


def test_damaged_images_are_named_and_the_rest_is_shown(finished):
    target, store = finished
    steps = Root(store).step_store(target.arms["guided"][0].step)
    entry = next(entry for entry in store.list(f"{steps.name}/data") if "/00000-" in entry.key)
    store.put(entry.key, b"torn")
    page = Page(render(target, store))
    assert f"{steps.name} shards/00000" in page.text
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 2


def points_of(svg: str) -> list[tuple[float, float]]:
    line = ElementTree.fromstring(svg).find("polyline")
    assert line is not None
    return [(float(x), float(y)) for x, y in (point.split(",") for point in line.attrib["points"].split())]


def test_a_logarithmic_axis_spaces_equal_ratios_equally():
    points = points_of(
        draw_chart(
            line_chart(
                "loss", [Curve("loss", [0.1, 1.0, 10.0], [1.0, 2.0, 3.0])], x_label="sigma", log_x=True
            )
        )
    )
    gaps = np.diff([x for x, _ in points])
    assert gaps[0] == pytest.approx(gaps[1], abs=0.2)
    assert np.ptp(np.diff([y for _, y in points])) < 0.2  # and on a linear axis differences are equal


@pytest.mark.parametrize("values", [[0.5], [0.0, 0.0], [1e-9, 1e9], [-3.0, 4.0], [0.693, 0.6930001]])
def test_charts_of_odd_ranges_stay_inside_their_frame(values):
    curve = Curve("a < b", [float(place + 1) for place in range(len(values))], values)
    svg = draw_chart(line_chart("loss", [curve], x_label="epoch"))
    assert all(0 <= x <= 380 and 0 <= y <= 236 for x, y in points_of(svg))


def test_a_chart_without_points_is_refused():
    with pytest.raises(ValueError, match="expected finite points"):
        draw_chart(line_chart("loss", [Curve("training", [], [])], x_label="epoch"))


def test_the_gain_of_a_discriminator_is_shown_by_epoch_weight_and_noise_level(source, monkeypatch):
    def with_gain(step: TrainStep, epoch: int) -> dict:
        """Returns Gain at weight w of 2 w a - w^2 b, with a = 0.03 epoch and b = 0.02 epoch: largest at
        1.5."""
        level = LevelGain(0.1, 1.0, GainCurve(0.03 * epoch, 0.02 * epoch, (1e-4, 0.0, 1e-4)))
        gain = MeasuredGain(20, level.curve, (level,)).metrics() if step.kind == "train-discriminator" else {}
        return epoch_metrics(step, epoch) | gain

    monkeypatch.setattr("report.fake_root.epoch_metrics", with_gain)
    target, store = recipe(source=source), new_store()
    fill(target, store)
    page = Page(render(target, store))
    words = [attributes["aria-label"] or "" for tag, attributes in page.tags if tag == "svg"]
    assert [each for each in words if each.startswith("Gain")] == [
        "Gain: weight 0.5, weight 1, weight 2 by epoch",
        "Gain by weight: Gain by guidance weight",
        "Gain by noise level: weight 0.5, weight 1, weight 2 by noise level sigma",
    ]
    assert "largest at 1.50" in page.text
    # At the used epoch 12 and weight 2: 4 * 0.36 - 4 * 0.24, with error sqrt(4 (4 + 4) 1e-4).
    assert "weight 2 at 0.316: 0.48 ± 0.057" in page.text
    assert "Gain at weight 1" in page.text and "0.4800" in page.text  # of epoch 12: 2 * 0.36 - 0.24
