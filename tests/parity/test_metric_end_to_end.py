"""Compare every number of the `adm` protocol, computed by `dgflow metrics` from two .npz files of images,
with OpenAI's evaluator.
"""

import json

import numpy as np
import pytest
from inprocess import complete
from parity import inception_recipe
from parity.metric_goldens import FOLDER

from dgflow.engine.execute import result_of
from dgflow.metrics.result import MetricResult
from dgflow.networks.inception.module import InceptionV3Module
from dgflow.steps.judging.comparison import comparison
from dgflow.store.memory import MemoryStore
from dgflow.weights.tensors import save_weights

PUBLISHED = json.loads((FOLDER / "adm_e2e.json").read_text())


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    shapes = {name: tuple(values.shape) for name, values in InceptionV3Module().state_dict().items()}
    file = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    file.write_bytes(save_weights(inception_recipe.weights(inception_recipe.seed_of(FOLDER), shapes)))
    return str(file)


@pytest.fixture(scope="module")
def store():
    return MemoryStore("metrics")


@pytest.fixture(scope="module")
def measure(weights, store):
    def measure(distances: str = "exact", metrics: tuple[str, ...] | None = None) -> MetricResult:
        samples, reference = (str(FOLDER / f"e2e_{name}.npz") for name in ("sample", "ref"))
        options = {"weights": weights, "distances": distances, "metrics": metrics}
        target = comparison(samples, reference, "adm", **options)  # type: ignore[arg-type]
        complete(target, store)
        return MetricResult.model_validate_json(result_of(target, store))

    return measure


def test_fid_and_sfid_are_those_of_exact_arithmetic_on_openais_activations(measure):
    values = measure().values
    assert values["fid"] == pytest.approx(PUBLISHED["exact_fid"], rel=1e-5)
    assert values["sfid"] == pytest.approx(PUBLISHED["exact_sfid"], rel=1e-5)
    assert values["fid"] == pytest.approx(
        PUBLISHED["adm_fid"], rel=2e-4, abs=1e-3
    )  # its sqrtm errs where images are fewer than features
    assert values["sfid"] == pytest.approx(PUBLISHED["adm_sfid"], rel=2e-4, abs=1e-3)


def test_the_inception_score_is_openais(measure):
    assert measure().values["is"] == pytest.approx(PUBLISHED["inception_score"], rel=5e-6)


def test_precision_and_recall_are_openais_but_for_two_images(measure):
    values = measure("openai-float16", metrics=("precision", "recall")).values
    two_images = 2.01 / min(
        PUBLISHED["n_sample"], PUBLISHED["n_ref"]
    )  # the network's rounding decides ties of float16 distances
    assert values["precision"] == pytest.approx(PUBLISHED["precision"], abs=two_images)
    assert values["recall"] == pytest.approx(PUBLISHED["recall"], abs=two_images)


def test_the_result_says_what_it_depends_on(measure):
    found = measure()
    assert found.provenance.protocol == "adm"
    assert (found.provenance.n, found.provenance.reference_n) == (PUBLISHED["n_sample"], PUBLISHED["n_ref"])
    stored = np.load(FOLDER / "e2e_sample.npz")["arr_0"]
    assert len(stored) == found.provenance.n
    assert any("not meaningful" in line for line in found.warnings)
