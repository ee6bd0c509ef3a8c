"""Published networks: what is in the folder and on the hub, and that a recipe gets the same network back."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import HfApi
from inprocess import complete
from publish.cards import card, rows
from publish.hub_server import READ_ONLY, TOKEN, Hub
from safetensors.torch import load_file

import dgflow
from dgflow.client.networks import DiscriminatorNetwork, ScoreNetwork
from dgflow.client.open_root import OpenRoot
from dgflow.diffusion.correction_specs import EpsilonScaling
from dgflow.diffusion.guidance_settings import Boost, Switch
from dgflow.diffusion.guidance_specs import DiscriminatorGuidance
from dgflow.networks.perceptron.spec import Perceptron
from dgflow.publish import publish as module
from dgflow.publish.lineage import bases, licence_of
from dgflow.publish.network import NetworkFolder
from dgflow.publish.network_card import network_card
from dgflow.publish.publish import publish
from dgflow.specs.step import Weights
from dgflow.steps.official import official
from dgflow.steps.pretrained import Pretrained
from dgflow.steps.published_network import PublishedNetwork
from dgflow.steps.training.train_classifier import TrainClassifier
from dgflow.store.objects import StoreError
from dgflow.store.open import open_store

NAME = "hf:ada/toy-discriminator"


@pytest.fixture
def address(root: str) -> str:
    return f"{root}/train-discriminator"


def guided(root: str, discriminator: Weights) -> np.ndarray:
    """The images that a published discriminator guides to, with the settings of the arm `guided`."""
    step = dgflow.open(root).step("evaluate").spec.arms["guided"][0].step
    term = step.guidance[0].model_copy(update={"discriminator": discriminator})
    assert isinstance(term, DiscriminatorGuidance)
    again = step.model_copy(update={"guidance": (term,)})
    assert again.fingerprint != step.fingerprint
    bound = complete(again[:8], open_store(root))
    return again.shard_builder(bound)(0, 8)["image"]


def source(weights: Weights) -> str:
    assert isinstance(weights.step, Pretrained)
    return weights.step.source


@pytest.fixture
def copy(root: str, tmp_path: Path) -> str:
    """A root of the test's own with the same content."""
    shutil.copytree(root, tmp_path / "copy")
    return str(tmp_path / "copy")


def test_a_published_discriminator_guides_bit_for_bit_as_the_original(
    copy: str, opened: OpenRoot, address: str, hub: Hub
) -> None:
    done = publish(address, NAME, licence="mit")
    plain, original = (
        opened.step("evaluate").spec.arms[name][0].step.name for name in ("unguided", "guided")
    )
    expected = opened.samples(original)[:8].images
    assert not np.array_equal(expected, opened.samples(plain)[:8].images)
    assert np.array_equal(guided(copy, official(f"{NAME}@{done.commit}")), expected)


def test_a_card_has_the_numbers_of_the_receipts(address: str, opened: OpenRoot, tmp_path: Path) -> None:
    publish(address, str(tmp_path / "published"), epoch="2")
    front, text = card(tmp_path / "published")
    metrics = opened.step("train-discriminator").metrics
    curve = rows(text, "epoch")
    assert curve.keys() == {"1", "2"} and "| **2** |" in text
    for epoch, name in ((1, "held_out_loss"), (2, "held_out_loss"), (2, "train_loss")):
        assert curve[str(epoch)][name] == f"{metrics[epoch][name]:.4f}"
    levels = list(rows(text, "sigma").values())
    assert [level["loss"] for level in levels] == [f"{each['loss']:.4f}" for each in metrics[2]["by_sigma"]]

    arms = opened.step("evaluate").result["arms"]
    table = rows(text, "arm")
    assert {arm: row["with this network"] for arm, row in table.items()} == {
        "unguided": "no",
        "guided": "yes",
    }
    for arm, row in table.items():
        assert row["FID"] == f"{arms[arm]['fid']['mean']:.2f}" and row["samples"] == "32"
    (result,) = front["model-index"][0]["results"]
    assert {each["type"]: each["value"] for each in result["metrics"]}["fid"] == arms["guided"]["fid"]["mean"]
    assert front["license"] == "unknown" and front["library_name"] == "dgflow"
    assert "DiscriminatorGuidance(discriminator=discriminator)" in text  # as it was measured
    training = json.loads((tmp_path / "published" / "training.json").read_text())
    assert training["epochs"]["1"]["held_out_loss"] == metrics[1]["held_out_loss"]


def test_the_code_of_a_card_has_all_settings_of_the_arm(opened: OpenRoot) -> None:
    facts = NetworkFolder(opened, opened.discriminator()).facts
    (found,) = facts.tables
    step: Any = found.samples["guided"].step
    term = step.guidance[0].model_copy(
        update={
            "boost": Boost(weight=3.0),
            "saturate": True,
            "weight": Switch(above=1.0, below=2.0, timestep=500),
        }
    )
    arm = step.model_copy(update={"guidance": (term, EpsilonScaling(factor=1.01))})
    facts.tables[0] = replace(found, samples={"guided": arm[:8]})
    text = network_card(facts, "mit", NAME)
    assert "in the measured arm, which also had other guidance or a selection" in text
    (recipe,) = re.findall("^guidance = (.*)$", text, re.M)
    network = opened.discriminator()
    term = term.model_copy(update={"discriminator": network.weights})
    assert eval(recipe, {"dg": dgflow, "discriminator": network.weights}) == term
    (shell,) = re.findall("^term = network.(term.*?)  #", text, re.M)
    assert eval(shell, {"dg": dgflow, "term": network.guidance}) == term


def test_the_table_of_other_weights_is_not_shown(address: str, tmp_path: Path) -> None:
    publish(address, str(tmp_path / "published"), epoch="1")
    front, text = card(tmp_path / "published")
    assert (
        "No result in the root of this training was measured with these weights." in text
        and "model-index" not in front
    )


def test_what_is_private_to_a_machine_is_not_published(root: str, address: str, tmp_path: Path) -> None:
    publish(address, str(tmp_path / "published"))
    written = b"".join(path.read_bytes() for path in (tmp_path / "published").iterdir())
    assert b"private-images.npz" in written
    assert str(Path(root).parent).encode() not in written and str(tmp_path).encode() not in written


def test_every_training_can_be_published_and_read_back(root: str, opened: OpenRoot, tmp_path: Path) -> None:
    for kind in ("train-score", "train-classifier"):
        publish(f"{root}/{kind}", str(tmp_path / kind))
        step = opened.step(kind).spec
        again = official(str(tmp_path / kind)).step
        assert again.network == step.architecture and again.classes == step.classes
        weights = load_file(tmp_path / kind / "model.safetensors")
        original = opened.network(kind).network.state_dict()
        assert weights.keys() == original.keys()
        assert all(value.equal(original[name]) for name, value in weights.items())
        complete(official(str(tmp_path / kind)).step, open_store(str(tmp_path / "root")))


def test_a_discriminator_on_features_names_them_or_brings_them(opened: OpenRoot) -> None:
    step = opened.step("train-discriminator").spec
    classifier = opened.step("train-classifier").spec
    head = Perceptron()
    published = PublishedNetwork.of(
        step.model_copy(update={"features": classifier.last(), "network": head.model_copy()})
    )
    assert published.reads["features"].file == "features.safetensors"  # type: ignore[union-attr]
    again: Any = published.weights("/some/folder").step.network
    assert again.features.step.source == "/some/folder/features.safetensors"
    assert again.features.step.network == classifier.network and again.head == head

    known = step.model_copy(update={"features": official("dg-cifar10-classifier"), "network": head})
    assert PublishedNetwork.of(known).reads == {"features": "dg-cifar10-classifier"}
    again = PublishedNetwork.of(known).weights("x").step.network
    assert again.features == known.features


def test_a_discriminator_on_trained_features_is_loaded_with_them(
    root: str, copy: str, tmp_path: Path
) -> None:
    opened = dgflow.open(root)
    step = opened.step("train-discriminator").spec
    encoder = opened.step("train-classifier").spec.network.model_copy(update={"pool": "attention"})
    classifier = TrainClassifier(
        real=step.real, network=encoder, noise="linear_vp", epochs=1, images_per_epoch=16, batch_size=16
    )
    head = Perceptron(width=8, layers=1)
    trained = step.model_copy(update={"features": classifier.last(), "network": head, "epochs": 1})
    complete(trained.last(), open_store(copy))
    publish(f"{copy}/{trained.name}", str(tmp_path / "published"))
    assert (tmp_path / "published" / "features.safetensors").is_file()
    loaded = dgflow.load(official(str(tmp_path / "published")), str(tmp_path / "networks"))
    original = dgflow.open(copy).discriminator(trained.name)
    assert isinstance(loaded, DiscriminatorNetwork)
    images = opened.samples("import-images")[:4]
    ratios = loaded.log_ratio(images.images, 0.3, images.labels)
    assert ratios.tolist() == original.log_ratio(images.images, 0.3, images.labels).tolist()


def test_loaded_networks_sample_together_without_ray(root: str, opened: OpenRoot, tmp_path: Path) -> None:
    for kind in ("train-score", "train-discriminator"):
        publish(f"{root}/{kind}", str(tmp_path / kind))
    score, discriminator = (
        dgflow.load(official(str(tmp_path / kind)), str(tmp_path / "networks"))
        for kind in ("train-score", "train-discriminator")
    )
    assert isinstance(score, ScoreNetwork) and isinstance(discriminator, DiscriminatorNetwork)
    arm = opened.step("evaluate").spec.arms["guided"][0].step
    made = dgflow.sample(score, discriminator.guidance(), 8, arm.sampler, seed=arm.seed, shard_size=8)
    assert np.array_equal(made.images, opened.samples(arm.name)[:8].images)
    with pytest.raises(ValueError, match=r"found those of train-score-\w+: use dgflow\.open\(ROOT\)"):
        dgflow.load(opened.score().weights)


def test_publishing_the_same_again_makes_no_commit(address: str, hub: Hub) -> None:
    first = publish(address, NAME, licence="mit", private=True)
    repo = hub.repos["models/ada/toy-discriminator"]
    assert TOKEN.encode() not in b"".join(repo.commits[-1].values())
    assert repo.private and first.commit == repo.sha and len(repo.commits) == 2
    again = publish(address, NAME, licence="mit")
    assert (again.changed, again.commit, len(repo.commits)) == (False, first.commit, 2)
    other = publish(address, NAME, licence="mit", epoch="1")
    assert other.changed and len(repo.commits) == 3
    assert json.loads(repo.commits[-1]["config.json"])["epoch"] == 1


def test_weights_that_change_on_a_branch_are_refused_after_they_were_locked(
    address: str, hub: Hub, tmp_path: Path
) -> None:
    store = open_store(str(tmp_path / "root"))
    publish(address, NAME, licence="mit")
    step = official(NAME).step
    assert isinstance(step, Pretrained)
    complete(step, store)
    publish(address, NAME, licence="mit", epoch="1")
    with pytest.raises(
        ValueError, match="as when it was first used, with sha256 .* found a file with sha256"
    ):
        step.check_unchanged(bytes, store)


def test_load_never_gives_weights_of_an_earlier_version(address: str, tmp_path: Path) -> None:
    folder, networks = tmp_path / "published", str(tmp_path / "networks")
    publish(address, str(folder))
    dgflow.load(official(str(folder)), networks)
    dgflow.load(official(str(folder)), networks)
    shutil.rmtree(folder)
    publish(address, str(folder), epoch="1")
    with pytest.raises(ValueError, match="as when it was first used, with sha256 .*, found"):
        dgflow.load(official(str(folder)), networks)


def test_a_folder_on_s3_is_taken_like_one_on_a_disk(
    root: str, address: str, s3_url: str, tmp_path: Path
) -> None:
    publish(address, f"{s3_url}/published")
    publish(address, str(tmp_path / "published"))
    weights = official(f"{s3_url}/published")
    assert weights.step.architecture == official(str(tmp_path / "published")).step.architecture
    assert source(weights) == f"{s3_url}/published/model.safetensors"
    data = (tmp_path / "published" / "model.safetensors").read_bytes()
    assert open_store(f"{s3_url}/published").get("model.safetensors") == data


def test_what_another_step_published_is_not_replaced_without_saying_so(
    root: str, address: str, hub: Hub
) -> None:
    publish(f"{root}/train-score", NAME, licence="mit")
    with pytest.raises(ValueError, match=r"expected train-discriminator-\w+ at .*, found train-score-\w+;"):
        publish(address, NAME, licence="mit")
    repo = hub.repos["models/ada/toy-discriminator"]
    repo.commits[-1]["features.safetensors"] = b"of the score network"
    publish(address, NAME, licence="mit", replace=True)
    assert sorted(repo.commits[-1]) == [
        *(".gitattributes", "README.md", "config.json", "model.safetensors", "training.json")
    ]
    repo.commits.append({"notes.md": b"by hand"})
    with pytest.raises(
        ValueError, match=r"found 1 other files \(notes\.md\); give another name, or --replace"
    ):
        publish(address, NAME, licence="mit")


def test_a_commit_of_somebody_else_in_between_is_not_undone(
    address: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(address, NAME, licence="mit")
    repo, listed = hub.repos["models/ada/toy-discriminator"], HfApi.list_repo_files

    def between(self: HfApi, *arguments: Any, **options: Any) -> list[str]:
        found = listed(self, *arguments, **options)
        repo.commits.append(repo.commits[-1] | {"notes.md": b"by somebody else"})
        return found

    monkeypatch.setattr(HfApi, "list_repo_files", between)
    with pytest.raises(ValueError, match="412 .*somebody else has changed the repository meanwhile"):
        publish(address, NAME, licence="apache-2.0")
    assert "notes.md" in repo.commits[-1]


def test_a_licence_beside_that_of_the_base_is_warned_of(
    address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "licence_of", lambda bases: "cc-by-nc-sa-4.0")
    publish(address, str(tmp_path / "own"), licence="mit")
    assert "is published as mit, but was made with" in caplog.text
    caplog.clear()
    publish(address, str(tmp_path / "same"), licence="cc-by-nc-sa-4.0")
    assert not caplog.text


def test_a_pinned_network_is_asked_for_once(address: str, hub: Hub) -> None:
    done = publish(address, NAME, licence="mit")
    first = official(f"{NAME}@{done.commit}")
    hub.asked.clear()
    assert official(f"{NAME}@{done.commit}") == first and hub.asked == []
    assert source(first) == f"hf:ada/toy-discriminator/model.safetensors@{done.commit}"
    assert source(official(NAME)) == "hf:ada/toy-discriminator/model.safetensors"
    assert hub.asked == ["HEAD /ada/toy-discriminator/resolve/main/config.json"]
    hub.down = True
    assert official(f"{NAME}@{done.commit}") == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dgflow_format": 2}, "found one of format 2; use a newer dgflow"),
        ({"network": {"type": "DefinedNowhere"}}, "found DefinedNowhere; import the module that"),
        ({"network": {"type": "Heun"}}, "expected a network, found Heun"),
        ({"image_size": 0}, "found another file; check the name"),
        ({"file": "../../secret.safetensors"}, "found another file; check the name"),
    ],
)
def test_another_config_is_refused(change: dict, message: str, address: str, tmp_path: Path) -> None:
    publish(address, str(tmp_path / "published"))
    path = tmp_path / "published" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=re.escape(message)):
        official(str(tmp_path / "published"))


def test_a_name_with_nothing_published_says_so(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"with its config\.json, at .*nowhere, found none; check the name"):
        official(str(tmp_path / "nowhere"))
    with pytest.raises(
        StoreError, match=r"hf:ada/nothing/config\.json: RepositoryNotFoundError.*check the name"
    ):
        official("hf:ada/nothing")
    with pytest.raises(ValueError, match="no folder is at toy-discriminators, and no network has this name"):
        official("toy-discriminators")
    with pytest.raises(ValueError, match="expected no part"):
        official("hf:ada/nothing", "vae")


def test_what_the_hub_refuses_is_said_with_what_to_do(
    address: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ValueError, match=r"the hub answers 403 .*under \"bob\".*use a token with write access"
    ):
        publish(address, "hf:bob/toy", licence="mit")
    with pytest.raises(ValueError, match="expected hf:user/name, found 'hf:toy'"):
        publish(address, "hf:toy", licence="mit")
    monkeypatch.setenv("HF_TOKEN", READ_ONLY)
    with pytest.raises(
        ValueError, match="the hub answers 403 .*no write access.*use a token with write access"
    ):
        publish(address, NAME, licence="mit")
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    with pytest.raises(ValueError, match="the hub answers 401.*the token is not valid: run `hf auth login`"):
        publish(address, NAME, licence="mit")
    hub.asked.clear()
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(
        ValueError, match="expected a token .* found none: run `hf auth login`, or set HF_TOKEN"
    ):
        publish(address, NAME, licence="mit")
    assert hub.asked == [] and hub.repos == {}


def test_a_hub_that_is_not_there_is_no_fault_of_the_command(
    address: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    hub.down = True
    with pytest.raises(StoreError, match=r"the hub answers 503 \(down for maintenance\); try again later"):
        publish(address, NAME, licence="mit")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        StoreError, match=f"could not look at {NAME}: ConnectError.*check this host's network"
    ):
        publish(address, NAME, licence="mit")


def test_what_cannot_be_published_is_refused(root: str, address: str, tmp_path: Path, hub: Hub) -> None:
    with pytest.raises(ValueError, match=r"no dgflow\.json there; an address is ROOT/STEP"):
        publish(root, str(tmp_path / "published"))
    with pytest.raises(ValueError, match=r"found none: give --licence.*Made with no published network"):
        publish(address, NAME)
    for wrong, message in {
        f"{root}/nothing": "whose name begins with 'nothing', found the steps",
        f"{root}/evaluate": "expected a training or generated images, found evaluate-",
        f"{root}/import-images": "which no sampler drew",
        f"{address}[0:3]": "leave it out",
    }.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            publish(wrong, str(tmp_path / "published"))
    with pytest.raises(ValueError, match="expected the hub's name of a licence.*found 'CC BY 4.0'"):
        publish(address, str(tmp_path / "published"), licence="CC BY 4.0")
    with pytest.raises(ValueError, match="expected --epoch last, best or a number, found 'first'"):
        publish(address, str(tmp_path / "published"), epoch="first")
    with pytest.raises(ValueError, match="expected the weights epoch:7 of .*found epochs 1 to 2"):
        publish(address, str(tmp_path / "published"), epoch="7")
    (tmp_path / "published").mkdir()
    with pytest.raises(ValueError, match="which is not overwritten"):
        publish(address, str(tmp_path / "published"))


def test_random_weights_of_a_smoke_run_are_marked_and_stay_off_the_hub(
    copy: str, hub: Hub, tmp_path: Path
) -> None:
    open_store(copy).create("smoke.json", b'{"smoke":2}')
    publish(f"{copy}/train-discriminator", str(tmp_path / "published"))
    assert "> **Made up.**" in card(tmp_path / "published")[1]
    with pytest.raises(ValueError, match="expected results of a real run for the hub, found the smoke run"):
        publish(f"{copy}/train-discriminator", NAME, licence="mit")
    assert hub.repos == {}


def test_a_licence_is_that_of_the_published_networks(opened: OpenRoot) -> None:
    step = opened.step("train-discriminator").spec
    network = opened.network("train-discriminator")
    assert NetworkFolder(opened, network).bases == []
    score = official("edm-cifar10-32x32-uncond-vp")
    made = step.fake.step.model_copy(update={"score": score})
    assert [base.licence for base in bases(made)] == ["CC BY-NC-SA 4.0"]
    assert licence_of(bases(made)) == "cc-by-nc-sa-4.0"
    assert licence_of([*bases(made), *bases(official("adm-imagenet-64x64-classifier").step)]) == "unknown"
