"""The table and its JSON: the committed numbers, their spread over seeds, and the names of missing parts."""

import json
import re

import pytest
from report.fake_root import FID, FLOOR, fill, new_store, recipe

from dgflow.engine.plan import plan
from dgflow.engine.root import Root
from dgflow.report.summary import as_json, summarise, table
from dgflow.store.receipts import CorruptObject


def test_the_table_shows_the_numbers_of_the_json(finished):
    summary = summarise(*finished)
    shown = {line.split("  ")[0]: re.findall(r"-?\d[\d,.]*", line) for line in table(summary).splitlines()}
    for name, arm in as_json(summary)["arms"].items():
        expected = []
        for metric, decimals in (("fid", 2), ("is", 2), ("precision", 3), ("recall", 3)):
            expected += [f"{arm[metric]['mean']:.{decimals}f}", f"{arm[metric]['spread']:.{decimals}f}"]
        assert shown[name] == [*expected, "200", "3"]
    assert shown["real against real"] == ["3.40", "9.71", "0.912", "0.934", "150"]


def test_mean_and_spread_are_those_of_the_seeds(finished):
    fid = as_json(summarise(*finished))["arms"]["guided"]["fid"]
    assert fid["per_seed"] == FID["guided"]
    assert fid["mean"] == pytest.approx(29.2333333)  # of 29.1, 29.9, 28.7
    assert fid["spread"] == pytest.approx(
        0.6110101
    )  # their sample standard deviation, by hand: sqrt((0.1333^2 + 0.6667^2 + 0.5333^2) / 2)


def test_the_improvement_stands_beside_the_sum_of_the_spreads(finished):
    assert "guided lowers FID by 9.63 (38.87 to 29.23); the sum of the two spreads is 1.06" in table(
        summarise(*finished)
    )


def test_one_seed_shows_no_spread(source):
    target, store = recipe(source=source, seeds=[101]), new_store()
    fill(target, store)
    text = table(summarise(target, store))
    assert "±" not in text
    assert "guided lowers FID by 10.20 (39.30 to 29.10); the spread over seeds is unknown" in text


def test_several_discriminator_seeds_get_a_mean_over_their_arms(source):
    target, store = recipe(source=source, discriminators=3), new_store()
    fill(target, store)
    text = table(summarise(target, store))
    # Means of the arms 29.2333, 30.4333 and 28.5: mean 29.3889, sample standard deviation 0.9760.
    assert "over 3 discriminator seeds (guided, guided-2, guided-3): FID 29.39 ± 0.98" in text


def test_the_floor_and_the_reference_say_what_they_are(finished):
    text = table(summarise(*finished))
    assert "reference: 150 real images [150:300], unseen in training" in text
    assert (
        "real against real: 150 real images [0:150], seen in training (train-classifier, train-score, "
        "train-discriminator)" in text
    )
    assert "the available n nearest to 200" in text


def test_json_has_the_keys_that_others_read(finished):
    target, store = finished
    found = json.loads(json.dumps(as_json(summarise(target, store)), allow_nan=False))
    assert set(found) == {"arms", "floor", "reference", "steps"}
    assert set(found["arms"]["guided"]) == {"fid", "is", "precision", "recall", "n", "seeds"}
    assert found["floor"] == FLOOR | {"n": 150}
    generate = found["steps"][target.arms["guided"][0].step.name]
    assert set(generate) == {"fingerprint", "seconds", "shards", "title", "elapsed", "bytes"}
    assert (generate["shards"], generate["seconds"]) == (2, 2.0 + 3.0)  # from the receipts of its two shards


def test_an_epoch_costs_its_seconds_times_its_workers(finished):
    target, store = finished
    (step,) = [made.step for made in plan(target, store) if made.step.kind == "train-discriminator"]
    assert (
        as_json(summarise(target, store))["steps"][step.name]["seconds"] == 20 * 1.5 * 2
    )  # 20 epochs of 1.5 s on 2 workers


def test_a_missing_shard_is_named_instead_of_a_result(source):
    target, store = recipe(source=source), new_store()
    fill(target, store, leave_out=[("generate seed 102, guided by discriminator", 1)])
    summary = summarise(target, store)
    assert summary.result is None
    assert as_json(summary)["arms"] == {}
    text = table(summary)
    assert text.startswith("no result yet")
    assert "generate seed 102, guided by discriminator: 1 of 2 shards committed" in text
    assert "generate seed 101" not in text


def test_an_altered_result_is_an_error_and_not_a_table(finished):
    target, store = finished
    steps = Root(store).step_store(target)
    (entry,) = store.list(f"{steps.name}/data")
    store.put(entry.key, store.get(entry.key).replace(b"29.1", b"19.1"))
    with pytest.raises(CorruptObject, match="verify"):
        summarise(target, store)
