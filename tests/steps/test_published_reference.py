"""Published references: by name and offline, checked when fetched, the same numbers as from a file, and
refused for other sizes."""

import io
import itertools
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from inprocess import complete
from steps.judging import INCEPTION, SCORE, commit, generated, image_set, judged, measured, rows_of

import dgflow as dg
from dgflow.engine.execute import result_of
from dgflow.engine.plan import plan
from dgflow.metrics.frechet import Moments, frechet_distance
from dgflow.report.metrics_table import metrics_table
from dgflow.report.page import render
from dgflow.report.summary import notes, summarise, table
from dgflow.specs.bound import Bound
from dgflow.specs.graph import graph
from dgflow.specs.step import here
from dgflow.steps.judging.measure import Measure
from dgflow.steps.sources.image_set import StatisticsFile
from dgflow.store.memory import MemoryStore
from dgflow.store.open import open_store

FAKE, REAL = rows_of(1, 240), rows_of(2, 200)
SAMPLES, REFERENCE = image_set("samples.npz", 240), image_set("reference", 200)
NUMBERS = itertools.count()
VAE = dg.StableDiffusionVAE(block_out_channels=(32, 32), layers_per_block=1)


@pytest.fixture
def store():
    """A store with the features of SAMPLES and REFERENCE."""
    store = MemoryStore(f"published-{next(NUMBERS)}")
    judged(store, SAMPLES, FAKE)
    judged(store, REFERENCE, REAL)
    return store


def published_file(path: Path, *, width: int = 6, spatial: int = 3, **more: np.ndarray) -> str:
    """Writes statistics in float32, as EDM publishes them, to `path`."""
    arrays: dict[str, np.ndarray] = {}
    for place, (mean, covariance, size) in enumerate((("mu", "sigma", width), ("mu_s", "sigma_s", spatial))):
        if size:
            random = np.random.default_rng([5, place])
            arrays |= {
                mean: random.random(size).astype(np.float32),
                covariance: np.diag(random.random(size)).astype(np.float32),
            }
    np.savez(path, **arrays, **more)  # type: ignore[arg-type]
    return str(path)


def statistics(source: str, **fields) -> dg.PublishedStatistics:
    return dg.PublishedStatistics(**{"source": source, "image_size": 2, "spatial": True} | fields)


def as_file(source: str) -> StatisticsFile:
    """Returns a reference whose widths were not read, so that they need not be Inception's."""
    return StatisticsFile(source=source, digest=StatisticsFile.at(source).digest)


def score(**fields) -> dg.Generate:
    step = dg.Pretrained(
        **{"source": "/score.safetensors", "network": dg.SongUNet(), "image_size": 2, "num_classes": 10}
        | fields
    )
    return dg.Generate(score=step.weights(), sampler=dg.Heun(steps=2))


# The numbers


def test_the_numbers_are_those_of_the_same_file_given_as_a_file(store, tmp_path):
    source = published_file(tmp_path / "published.npz")
    names = ("fid", "sfid", "precision", "recall")
    file = measured(store, SAMPLES, reference=REFERENCE, statistics=as_file(source), metrics=names)
    step = measured(
        store, SAMPLES, reference=REFERENCE, statistics=statistics(source).result(), metrics=names
    )
    assert step == file
    assert step.provenance.statistics_digest == StatisticsFile.at(source).digest


def test_a_table_against_published_statistics_is_that_of_the_file(tmp_path):
    source, tables = published_file(tmp_path / "published.npz"), []
    for given in (as_file(source), statistics(source).result()):
        store = MemoryStore(f"published-{next(NUMBERS)}")
        part = generated(store, 0, 240)
        judged(store, part, FAKE)
        target = dg.Evaluate(arms={"plain": (part,)}, features=INCEPTION, protocol="adm", statistics=given)
        complete(target, store)
        tables.append(summarise(target, store))
    assert tables[0].result == tables[1].result
    assert any("the published statistics of published.npz" in line for line in notes(tables[1]))


def test_only_the_moments_of_a_file_are_kept_in_float64(tmp_path):
    source = published_file(tmp_path / "both.npz", arr_0=np.zeros((4, 2, 2, 3), np.uint8), arr_1=np.arange(4))
    store = MemoryStore(f"published-{next(NUMBERS)}")
    step = statistics(source)
    complete(step, store)
    with np.load(io.BytesIO(result_of(step, store))) as kept, np.load(source) as given:
        assert sorted(kept.files) == ["mu", "mu_s", "sigma", "sigma_s"]
        for name in kept.files:
            assert kept[name].dtype == np.float64
            np.testing.assert_array_equal(kept[name], given[name])


def test_the_file_is_fetched_once_and_then_read_from_the_root(tmp_path):
    source, store = published_file(tmp_path / "published.npz"), open_store(str(tmp_path / "root"))
    complete(statistics(source), store)
    Path(source).unlink()
    assert [state.action for state in plan(statistics(source), store)] == ["reuse"]
    complete(statistics(source, image_size=4), store)


def test_the_reference_and_its_network_are_fetched_before_any_sample_is_made():
    target = dg.Evaluate(
        arms={"plain": (score(image_size=32)[:20],)}, against=dg.reference("fid-cifar10-32x32")
    )
    titles = [node.step.title for node in graph(target)]
    first = titles.index("generate seed 0")
    assert (
        titles.index("statistics of fid-cifar10-32x32") < first
        and titles.index("inception-2015-12-05") < first
    )


# By name, and offline


@pytest.mark.parametrize(
    ("name", "protocol", "side", "images"),
    [
        ("adm-reference-imagenet-256", "adm", 256, 10_000),
        ("fid-cifar10-32x32", "edm", 32, 0),
        ("fid-ffhq-64x64", "edm", 64, 0),
    ],
)
def test_a_published_reference_is_what_its_papers_were_measured_against(name, protocol, side, images):
    found = dg.reference(name)
    statistics = found.statistics.step
    assert isinstance(statistics, dg.PublishedStatistics)
    assert (found.protocol, statistics.image_size, statistics.source) == (protocol, side, name)
    assert (0 if found.images is None else found.images.rows) == images
    target = dg.Evaluate(arms={"plain": (score(image_size=side)[:50_000],)}, against=found)
    (measure,) = (reference.step for reference in target.inputs().values())
    assert isinstance(measure, Measure)
    assert measure.wanted == (("fid", "sfid", "is", "precision", "recall", "f1") if images else ("fid",))


def test_another_file_of_inception_can_be_named(tmp_path):
    for inception, format in (
        ("inception-2015-12-05-nvidia", "inception_torchscript"),
        (str(tmp_path / "mine.pb"), "inception_graph"),
    ):
        step = dg.reference("fid-cifar10-32x32", inception=inception).features.step
        assert isinstance(step, dg.Pretrained) and step.format == format


def test_against_a_reference_is_the_same_step_as_its_fields_written_out():
    found, arms = dg.reference("adm-reference-imagenet-256"), {"plain": (score(image_size=256)[:50_000],)}
    fields = {"reference": found.images, "features": found.features, "statistics": found.statistics}
    written_out = dg.Evaluate(arms=arms, protocol="adm", **fields)
    assert dg.Evaluate(arms=arms, against=found) == written_out
    assert "against" not in written_out.document()["fields"]
    assert written_out.model_copy(update={"metrics": ("fid",)}) == dg.Evaluate(
        arms=arms, against=found, metrics=("fid",)
    )


def test_a_field_is_refused_beside_the_reference_that_gives_it():
    with pytest.raises(TypeError, match="multiple values for keyword argument 'protocol'"):
        dg.Evaluate(arms={}, against=dg.reference("fid-cifar10-32x32"), protocol="adm")


def test_an_unknown_reference_is_refused_with_those_there_are():
    with pytest.raises(
        ValueError,
        match=r"expected a published reference, one of adm-reference-imagenet-256, .*found 'imagenet'",
    ):
        dg.reference("imagenet")


def test_planning_against_a_published_reference_needs_no_file_torch_or_network(tmp_path):
    program = (
        "import socket, sys; socket.socket.connect = None\n"
        "import dgflow as dg; from dgflow.engine.plan import plan; from dgflow.store.open import "
        "open_store\n"
        "fake = dg.Generate(score=dg.official('adm-imagenet-256x256-diffusion'), "
        "sampler=dg.DDPM(respacing='250'))\n"
        "target = dg.Evaluate(arms={'plain': (fake[:50_000],)}, "
        "against=dg.reference('adm-reference-imagenet-256'))\n"
        f"states = plan(target, open_store({str(tmp_path)!r}))\n"
        "print(len(states), sorted({'torch', 'ray'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout.split()[0]) > 6 and found.stdout.rstrip().endswith("[]")


def test_fid_alone_can_be_against_images_that_are_imported_as_the_celeba_recipe_does(tmp_path):
    store, black = (
        MemoryStore(f"published-{next(NUMBERS)}"),
        {"image": np.zeros((200, 2, 2, 3), np.uint8), "label": np.arange(200) % 10},
    )
    np.savez(tmp_path / "real.npz", **black)  # type: ignore[arg-type]
    real = dg.ImportImages(
        source=str(tmp_path / "real.npz"), num_classes=10, image_size=2, num_images=200
    ).all()
    complete(real.step.inputs()["listing"].step, store)
    commit(store, real, black)
    part = generated(store, 0, 240)
    judged(store, part, FAKE, front_end="edm")
    judged(store, real, REAL, front_end="edm")
    found = measured(store, part, reference=real, protocol="edm")
    assert found.values == {
        "fid": frechet_distance(Moments.of(FAKE["features"]), Moments.of(REAL["features"]))
    }
    assert (found.provenance.statistics_digest, found.provenance.reference_n) == (None, 200)


# Refusals


@pytest.mark.parametrize("name", ["fid-cifar10-32x32", "adm-reference-imagenet-256"])
def test_a_reference_of_another_resolution_is_refused_when_the_recipe_is_built(name):
    with pytest.raises(
        ValueError, match=r"of one size, found 64 x 64 pixels in the samples, .*take the reference"
    ):
        dg.Evaluate(arms={"plain": (score(image_size=64)[:100],)}, against=dg.reference(name))


def test_reference_images_of_another_resolution_are_refused_when_the_recipe_is_built():
    real = dg.ImportImages(source="/nowhere", num_classes=10, image_size=4)
    with pytest.raises(ValueError, match="found 2 x 2 pixels in the samples, 4 x 4 pixels in the reference"):
        dg.Evaluate(
            arms={"plain": (score()[:100],)}, reference=real[:100], features=INCEPTION, protocol="edm"
        )


def test_latents_in_an_arm_are_refused_with_the_step_that_decodes_them():
    network, autoencoder = (
        dg.DiT(hidden_size=32, depth=1, num_heads=2),
        dg.Pretrained(source="/vae", network=VAE, image_size=16),
    )
    latents = score(network=network, image_size=8, channels=4)[:100]
    real = dg.ImportImages(source="/nowhere", num_classes=10, image_size=16)[:100]
    with pytest.raises(ValueError, match=r"latents of generate seed 0: decode them first"):
        dg.Evaluate(arms={"plain": (latents,)}, reference=real, features=INCEPTION, protocol="edm")
    images = dg.Decode(latents=latents, vae=autoencoder.weights())
    assert dg.Evaluate(arms={"plain": (images.all(),)}, reference=real, features=INCEPTION, protocol="edm")


def test_the_result_of_another_step_is_not_taken_for_statistics():
    other = Measure(samples=SAMPLES, reference=REFERENCE, features=INCEPTION, protocol="adm")
    with pytest.raises(
        ValueError, match=r"a StatisticsFile or the result of a PublishedStatistics, found that of measure"
    ):
        Measure(samples=SAMPLES, statistics=other.result(), features=INCEPTION, protocol="adm")


def test_sfid_is_refused_against_statistics_that_have_none_of_it():
    without = statistics("fid-cifar10-32x32", spatial=False).result()
    with pytest.raises(
        ValueError, match="sfid cannot be measured: statistics of fid-cifar10-32x32 have no mu_s and sigma_s"
    ):
        Measure(samples=SAMPLES, features=INCEPTION, protocol="edm", metrics=("sfid",), statistics=without)


def test_edm2_s_pickle_is_read_when_it_is_fetched_and_again_where_it_is_kept(tmp_path):
    arrays = {"mu": np.arange(3.0), "sigma": np.diag([1.0, 2.0, 3.0])}
    (tmp_path / "img2.pkl").write_bytes(pickle.dumps({"fid": arrays, "fd_dinov2": {}}, protocol=4))
    step, store = statistics(str(tmp_path / "img2.pkl"), spatial=False), open_store(str(tmp_path / "root"))
    for _ in range(2):
        found = np.load(io.BytesIO(step.compute(Bound(), here, store)))
        assert sorted(found.files) == ["mu", "sigma"] and (found["sigma"] == arrays["sigma"]).all()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("dit-xl-2-256", "found dit-xl-2-256, which holds a network"),
        ("/stats.npy", r"expected an \.npz or \.pkl .*found '/stats.npy'"),
    ],
)
def test_a_source_that_holds_no_statistics_is_refused_when_it_is_named(source, message):
    with pytest.raises(ValueError, match=message):
        statistics(source)


def test_a_source_that_may_hold_a_secret_is_refused():
    with pytest.raises(ValueError, match="without a query or credentials") as refused:
        statistics("https://example.org/mu.npz?token=abcdef")
    assert "abcdef" not in str(refused.value).partition("input_value")[0]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"arr_0": np.zeros((2, 2, 2, 3), np.uint8)},
            "expected mu and sigma, mu_s and sigma_s in .*found none",
        ),
        ({"mu": np.zeros(3), "sigma": np.eye(3)}, "expected mu and sigma, mu_s and sigma_s in .*found none"),
        ({"mu": np.zeros(3)}, "expected mu and sigma together"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, "of shape"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "finite numbers"),
    ],
)
def test_a_file_that_is_no_statistics_is_refused_and_not_locked(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    store = MemoryStore(f"published-{next(NUMBERS)}")
    with pytest.raises(ValueError, match=message) as refused:
        complete(statistics(str(tmp_path / "bad.npz")), store)
    assert str(tmp_path / "bad.npz") in str(refused.value)
    assert not store.list("weights")


def test_statistics_that_were_overwritten_are_refused_by_a_later_run(tmp_path):
    step, store = statistics(published_file(tmp_path / "a.npz")), MemoryStore(f"published-{next(NUMBERS)}")
    complete(step, store)
    step.check_unchanged(bytes, store)
    np.savez(tmp_path / "a.npz", mu=np.ones(3), sigma=np.eye(3))
    with pytest.raises(ValueError, match=f"with sha256 .* delete weights/.* and {step.name}"):
        step.check_unchanged(bytes, store)


def test_another_file_than_the_expected_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match="0" * 64):
        complete(
            statistics(published_file(tmp_path / "a.npz"), sha256="0" * 64),
            MemoryStore(f"published-{next(NUMBERS)}"),
        )


# Made-up statistics


MADE_UP = (
    "a smoke run: random weights or statistics stand in for trained or published ones; "
    "the numbers are meaningless"
)


def test_made_up_statistics_are_warned_of_in_the_table(store, tmp_path):
    source = published_file(tmp_path / "published.npz")
    found = measured(store, SAMPLES, statistics=statistics(source, made_up=True).result(), metrics=("fid",))
    assert found.warnings[0] == MADE_UP
    assert f"warning: {MADE_UP}" in metrics_table(found)
    real = measured(store, SAMPLES, statistics=statistics(source).result(), metrics=("fid",))
    assert MADE_UP not in real.warnings and real.values == found.values


def test_what_is_made_up_is_said_once_under_the_table_and_on_the_page(tmp_path):
    source, store = published_file(tmp_path / "published.npz"), MemoryStore(f"published-{next(NUMBERS)}")
    arms = {"plain": (generated(store, 0, 240),), "other": (generated(store, 0, 240, seed=1),)}
    for (part,), rows in zip(arms.values(), (FAKE, rows_of(3, 240)), strict=True):
        judged(store, part, rows)
    made_up = statistics(source, made_up=True).result()
    target = dg.Evaluate(arms=arms, features=INCEPTION, protocol="adm", statistics=made_up)
    complete(target, store)
    assert table(summarise(target, store)).count(f"warning: {MADE_UP}") == 1
    assert MADE_UP in render(target, store)


@pytest.mark.parametrize("which", ["score", "features"])
def test_made_up_weights_behind_samples_or_features_are_warned_of(which):
    store = MemoryStore(f"published-{next(NUMBERS)}")
    given = (INCEPTION if which == "features" else SCORE).step
    assert isinstance(given, dg.Pretrained)
    weights = given.model_copy(update={"made_up": True}).weights()
    judge = weights if which == "features" else INCEPTION
    step = dg.Generate(score=SCORE if which == "features" else weights, sampler=dg.Heun(steps=2))
    commit(store, step[:240], {"label": np.arange(240) % 10, "image": np.zeros((240, 2, 2, 3), np.uint8)})
    judged(store, step[:240], FAKE, network=judge)
    judged(store, REFERENCE, REAL, network=judge)
    assert (
        measured(store, step[:240], reference=REFERENCE, features=judge, metrics=("fid",)).warnings[0]
        == MADE_UP
    )


def test_decoded_images_are_known_by_the_seed_of_their_latents():
    store = MemoryStore(f"published-{next(NUMBERS)}")
    network, autoencoder = (
        dg.DiT(hidden_size=32, depth=1, num_heads=2),
        dg.Pretrained(source="/vae", network=VAE, image_size=4),
    )
    latents = score(network=network, image_size=2, channels=4).model_copy(update={"seed": 7})[500:740]
    commit(store, latents, {"label": np.arange(240) % 10, "latent": np.zeros((240, 4, 2, 2), np.float16)})
    images = dg.Decode(latents=latents, vae=autoencoder.weights()).all()
    commit(store, images, {"label": np.arange(240) % 10, "image": np.zeros((240, 4, 4, 3), np.uint8)})
    judged(store, images, FAKE)
    judged(store, REFERENCE, REAL)
    found = measured(store, images, reference=REFERENCE, metrics=("fid",)).provenance
    assert (found.seed, found.seeding, found.start, found.stop) == (7, "counter", 500, 740)
