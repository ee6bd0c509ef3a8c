"""CompareTranslations: distances and curves of handmade images, their place in the table, and refusals."""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from steps.identities import JUDGE, NOISY, REAL, SCORE

import dgflow as dg
from dgflow.engine.plan import plan
from dgflow.report.arms import named
from dgflow.specs.figures import Lines, Table
from dgflow.specs.graph import graph
from dgflow.specs.step import Slice, here
from dgflow.steps.judging.measure import Measure
from dgflow.store.memory import MemoryStore
from dgflow.store.open import open_store

STARTS, SEEDS, ROWS = (0.2, 0.5), (1, 2), 50
OTHERS = dg.ImportImages(source="others.npz", num_images=200, num_classes=3, image_size=8, channels=1)


def translated(start: float, seed: int, *guidance: dg.DiscriminatorGuidance, **fields: Any) -> Slice:
    fields = {"source": OTHERS[100:150]} | fields
    return dg.Translate(score=SCORE.last(), start=start, seed=seed, guidance=guidance, **fields).all()


def guide(**fields: Any) -> dg.DiscriminatorGuidance:
    training = dg.TrainDiscriminator(
        real=REAL[:100],
        fake=(OTHERS[:90], translated(0.5, 9, source=OTHERS[:90])),
        features=NOISY.last(),
        **fields,
    )
    return dg.DiscriminatorGuidance(discriminator=training.last())


def arm(*guidance: dg.DiscriminatorGuidance, seeds=SEEDS, starts=STARTS, **fields: Any) -> tuple[Slice, ...]:
    return tuple(translated(start, seed, *guidance, **fields) for start in starts for seed in seeds)


def comparison(**fields: Any) -> dg.CompareTranslations:
    fields = {"arms": {"unguided": arm(), "guided": arm(guide())}} | fields
    return dg.CompareTranslations(reference=REAL[100:150], features=JUDGE.last(), **fields)


@dataclass
class Made:
    """Inputs whose translations differ from their sources by a number of grey levels and by a feature value:
    both by `offset[arm, start]`, and by one more for the second seed."""

    step: dg.CompareTranslations
    offset: dict[tuple[str, float], int]
    fid: dict[tuple[str, float], float]
    images: dict[str, np.ndarray] = field(default_factory=dict)
    features: dict[str, np.ndarray] = field(default_factory=dict)
    fids: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        random = np.random.default_rng(0)
        source, features = random.integers(0, 200, (ROWS, 8, 8, 1)), random.normal(size=(ROWS, 5))
        self.images["source"], self.features["source"] = source.astype(np.uint8), features
        self.fids["source"] = 90.0
        for system in self.step.systems:
            for seed, name in enumerate(system.names):
                by = self.offset[system.arm, system.start] + seed
                self.images[name] = (source + by).astype(np.uint8)
                self.features[name] = features + by * np.eye(5)[0]
                self.fids[name] = self.fid[system.arm, system.start] + seed

    def rows(self, name: str, columns: list[str], start: int, stop: int) -> dict[str, np.ndarray]:
        held = self.features if name.endswith(".features") else self.images
        return {columns[0]: held[name.removesuffix(".features")][start:stop]}

    def result(self, name: str) -> bytes:
        return json.dumps({"values": {"fid": self.fids[name.removesuffix(".measured")]}}).encode()


def computed(step: dg.CompareTranslations) -> bytes:
    """Unguided translations are at distances 10 and 20 with FID 40 and 20, guided ones at 16 and 26 with FID
    22 and 8."""
    offset = {("unguided", 0.2): 10, ("unguided", 0.5): 20, ("guided", 0.2): 16, ("guided", 0.5): 26}
    fid = {("unguided", 0.2): 40.0, ("unguided", 0.5): 20.0, ("guided", 0.2): 22.0, ("guided", 0.5): 8.0}
    inputs: Any = Made(step, offset, fid)
    assert inputs.images.keys() | {f"{name}.features" for name in inputs.features} <= step.inputs().keys()
    return step.compute(inputs, here, MemoryStore("none"))


def test_distances_are_those_of_images_in_0_to_1_and_of_features_with_their_spread_over_seeds():
    step = comparison()
    arms = dict(step.compared(computed(step)))
    assert list(arms) == [*(f"{name}, start {start}" for name in step.arms for start in STARTS), "source"]
    assert arms.pop("source")["l2"]["mean"] == 0
    for name, by in zip(arms, (10, 20, 16, 26), strict=True):
        l2, features = arms[name]["l2"], arms[name]["perceptual"]
        assert l2["per_seed"] == pytest.approx([8 * by / 255, 8 * (by + 1) / 255])  # 64 pixels
        assert features["per_seed"] == pytest.approx([by, by + 1])
        assert features["spread"] == pytest.approx(0.5**0.5)
        assert l2["errors"] == pytest.approx([0, 0], abs=1e-12)


def test_the_lift_is_the_mean_gap_at_the_same_distance_seed_by_seed():
    """From distance 16 to 20, which both reach, the unguided curve is 60 - 2 d and the guided one 22 - 1.4 (d
    - 16): 24 - 19.2 at the middle. The second seed is shifted by one in both directions."""
    step = comparison()
    lift = json.loads(computed(step))["lift"]["guided"]
    assert lift["perceptual"]["per_seed"] == pytest.approx([4.8, 4.8])
    assert lift["l2"]["per_seed"] == pytest.approx([4.8, 4.8])


def test_the_figures_show_both_curves_the_sources_and_the_lift():
    step = comparison()
    figures = step.figures(computed(step))
    over, by_features, lift, *by_start = figures
    assert isinstance(over, Lines) and isinstance(by_features, Lines) and isinstance(lift, Table)
    assert over.level == (90.0, "the source images")
    unguided, guided = by_features.curves
    assert (list(unguided.x), list(unguided.y)) == ([10.5, 20.5], [40.5, 20.5])
    assert guided.label == "guided" and guided.error == pytest.approx([0.5**0.5] * 2)
    assert lift.rows == [("guided", "4.80 ± 0.00", "4.80 ± 0.00")]
    assert [each.title.split(",")[0] for each in by_start] == [
        "FID by start time",
        "L2 to source by start time",
        "feature distance by start time",
    ]


def test_arms_in_another_order_share_the_file_and_the_lift_names_the_arm_compared_with():
    step = comparison()
    swapped = comparison(arms={name: step.arms[name] for name in ("guided", "unguided")})
    assert swapped.fingerprint == step.fingerprint
    _, by_features, lift, *_ = swapped.figures(computed(step))
    assert isinstance(by_features, Lines) and isinstance(lift, Table)
    assert [curve.label for curve in by_features.curves] == ["guided", "unguided"]
    assert lift.rows == [("guided", "4.80 ± 0.00", "4.80 ± 0.00")] and lift.note
    assert lift.note.startswith("FID of unguided minus that of the arm")


def test_the_table_has_a_row_of_each_arm_and_start_and_reads_what_it_measures():
    step = comparison(floor=REAL[150:200])
    table = step.evaluate()
    assert list(table.arms) == list(step.compared(computed(step)))
    assert table.beside == (step.result(),) and set(table.columns) >= {"fid", "l2", "perceptual"}
    measures = [node.step for node in graph(table) if isinstance(node.step, Measure)]
    assert len(measures) == 8 + 2  # with source and floor; all are distinct
    inputs = step.inputs()
    for name, measure in table.measures.items():
        if name != "floor":
            assert measure.result() in inputs.values()
            assert measure.inputs()["samples"] in inputs.values()


def test_a_plan_shows_the_steps_by_arm_and_what_stands_beside_the_table_with_those_for_all(tmp_path):
    plans = plan(comparison().evaluate(), open_store(str(tmp_path)))
    groups: dict[str, list[str]] = {}
    for each in named(plans):
        groups.setdefault(each.group, []).append(each.label)
    assert [group for group in groups if group.startswith("arm ")] == [
        *(f"arm {name}, start {start}" for name in ("unguided", "guided") for start in STARTS),
        "arm source",
    ]
    assert "comparison of translations, unguided, guided" in groups["for all arms"]


def test_source_images_on_which_a_discriminator_was_trained_are_a_caution():
    seen = guide().model_copy()
    arms = {"unguided": arm(source=OTHERS[50:100]), "guided": arm(seen, source=OTHERS[50:100])}
    (line,) = comparison(arms=arms).cautions()
    assert "40 of the 50 samples" in line and "are fakes on which a discriminator" in line
    assert not comparison().cautions()


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ({}, "one or more arms"),
        ({"a": (REAL[:50],)}, "arm 'a': expected slices of Translate, .* found import-images"),
        ({"a": arm(), "b": arm(source=OTHERS[:50])}, r"same source images .* \[0:50\] .* beside \[100:150\]"),
        (
            {"a": arm(), "b": arm(seeds=(1, 3))},
            r"the seeds \[1, 2\] at every start time, found \[1, 3\] at 0.2",
        ),
        ({"a": arm()[:3]}, r"the seeds \[1, 2\] at every start time, found \[1\] at 0.5"),
        (
            {"a": (*arm()[:2], *arm(sampler=dg.Heun(steps=5))[2:])},
            "arm 'a': expected translations with one sampler at every start .* another at 0.5 than at 0.2",
        ),
        ({"a": arm(seeds=(1, 1))}, "arm 'a, start 0.2': expected slices without a sample in common"),
    ],
)
def test_what_is_no_comparison_is_refused(arms, message):
    with pytest.raises(ValueError, match=message):
        comparison(arms=arms)


def test_without_fid_there_are_no_curves():
    with pytest.raises(ValueError, match="metrics: expected fid among them, .* found precision"):
        comparison(metrics=("precision",))


def test_start_times_that_hardly_differ_are_systems_of_their_own():
    systems = comparison(arms={"a": arm(starts=(0.2, 0.2000001))}).systems
    assert [system.title for system in systems] == ["a, start 0.2", "a, start 0.2000001"]
