"""The index of a root of several variants: each with a link to its page, and the changes of its arms."""

import pytest
from report.fake_root import fill, new_store, recipe, write_source
from report.test_page import Page

from dgflow.engine.plan import plan
from dgflow.report.page import render
from dgflow.report.page_file import INDEX, page_of
from dgflow.report.pages import write_pages
from dgflow.report.root_index import render_index
from dgflow.store.runs import Asked, RunRecord, RunStep, ranges, record_key


def record(store, target, number, **options):
    steps = [
        RunStep(
            name=each.step.name,
            title=each.step.title,
            kind=each.step.kind,
            folder=each.folder,
            unit=each.unit,
            wanted=ranges(each.wanted),
        )
        for each in plan(target, store)
    ]
    run = RunRecord(
        id=f"2026010{number}-000000-aaaaaa",
        asked=Asked(recipe="digits", options={"steps": 8, **options}, changed=tuple(options)),
        target=target.name,
        steps=tuple(steps),
        version="0.2.0",
        host="<b>node</b>",
        pid=1,
        started=float(number),
        outcome="done",
    )
    store.put(record_key(run.id), run.model_dump_json().encode())


@pytest.fixture(scope="module")
def variants(tmp_path_factory):
    source, store = write_source(tmp_path_factory.mktemp("source") / "digits.npz"), new_store()
    targets = [recipe(source=source), recipe(source=source, discriminators=2)]
    for number, target in enumerate(targets, 1):
        fill(target, store)
        record(store, target, number, discriminators=number)
        write_pages(store, target.name, render(target, store).encode())
    return targets, store


def test_a_root_of_one_variant_has_no_index(source):
    target, store = recipe(source=source), new_store()
    record(store, target, 1)
    assert write_pages(store, target.name, render(target, store).encode()) is None
    assert render_index(store) is None and INDEX not in store.names()


def test_each_variant_has_a_row_per_guided_arm_and_a_link_to_its_page(variants):
    targets, store = variants
    page = Page(store.get(INDEX).decode())
    assert page.open == []
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    first, second = (page_of(target.name) for target in targets)
    assert links == [second, second, first]  # the latest first, with two guided arms
    assert {first, second} <= set(store.names())
    assert page.text.count("digits --discriminators 2") >= 2 and "digits --steps" not in page.text
    assert "Change of FID against unguided" in page.text
    assert "29.23" in page.text and "30.43" in page.text  # means of FID of the two guided arms


def test_a_variant_without_a_result_is_named_with_its_state(variants):
    targets, store = variants
    other = targets[0].model_copy(update={"floor": None})
    record(store, other, 3, discriminators=1, floor=False)
    text = render_index(store)
    assert text is not None and "digits --discriminators 1 --floor False" in Page(text).text
    assert page_of(other.name) not in text
