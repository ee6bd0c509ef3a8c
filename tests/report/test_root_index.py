"""The index of a root of several variants: each with a link to its page, and the changes of its arms."""

import pytest
from report.fake_root import fill, new_store, recipe, write_source
from report.test_page import Page

from dgflow.engine.plan import plan
from dgflow.engine.removal import doomed, remove
from dgflow.report.page import render
from dgflow.report.page_file import INDEX, PAGE, index_link, page_of
from dgflow.report.pages import drop_pages, write_pages
from dgflow.report.root_index import render_index
from dgflow.store.runs import Asked, RunRecord, RunStep, ranges, record_key
from dgflow.testing.smoke_root import MARK


def record(store, target, number, outcome="done", **options):
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
        outcome=outcome,
    )
    store.put(record_key(run.id), run.model_dump_json().encode())


def root_of(*counts, source):
    targets, store = [recipe(source=source, discriminators=count) for count in counts], new_store()
    for number, target in enumerate(targets, 1):
        fill(target, store)
        record(store, target, number, discriminators=number)
        write_pages(store, target.name, render(target, store).encode())
    return targets, store


@pytest.fixture(scope="module")
def variants(tmp_path_factory):
    return root_of(1, 2, source=write_source(tmp_path_factory.mktemp("source") / "digits.npz"))


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


def test_the_index_of_a_smoke_run_has_no_effects(source):
    _, store = root_of(1, 2, source=source)
    store.put(MARK, b"{}")
    text = Page(render_index(store) or "").text
    assert "digits --discriminators 2" in text and "Change of FID" not in text and "29.23" not in text


def test_a_variant_without_a_result_is_named_with_its_state(variants):
    targets, store = variants
    other = targets[0].model_copy(update={"floor": None})
    record(store, other, 3, "interrupted", discriminators=1, floor=False)
    text = render_index(store)
    assert text is not None and "digits --discriminators 1 --floor False" in Page(text).text
    assert page_of(other.name) not in text


def test_a_removed_variant_loses_its_page_and_the_index_its_row(source):
    (first, second, third), store = root_of(1, 2, 3, source=source)

    def removed(target):
        steps = doomed(store, target.name)
        remove(store, steps)
        drop_pages(store, [each.step for each in steps])

    removed(third)  # the latest: its page was report.html
    assert page_of(third.name) not in store.names()
    assert store.get(PAGE) == store.get(page_of(second.name))
    index = store.get(INDEX).decode()
    assert page_of(second.name) in index and page_of(first.name) in index
    assert third.name not in index and "discriminators 3" not in index
    removed(first)
    assert page_of(first.name) not in store.names() and INDEX not in store.names()
    assert index_link().encode() not in store.get(PAGE)
    removed(second)
    assert PAGE not in store.names()
