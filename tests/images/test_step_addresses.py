"""The address of a step's samples: the only sealed slice that it can mean, and errors that list the slices if
it is ambiguous."""

import pickle

import numpy as np
import pytest

from dgflow.images.sources import is_step, open_images
from dgflow.images.write import export_images
from dgflow.store.address import find_slice
from dgflow.store.identity import fingerprint
from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store
from dgflow.store.step_store import StepStore

ROWS = 10  # per shard
INPUTS, OTHER_INPUTS = {"score": "0" * 64}, {"score": "1" * 64}


def make_step(
    store: ObjectStore, kind: str = "generate", seed: int = 7, shards: int = 4, column: str = "image"
) -> StepStore:
    document = {"kind": kind, "schema_version": 1, "fields": {"seed": seed}}
    steps = StepStore(store, kind, fingerprint(document))
    steps.declare(document)
    write_shards(steps, shards, INPUTS, column)
    return steps


def images_of(number: int, inputs: dict[str, str]) -> np.ndarray:
    return np.random.default_rng([number, int(inputs["score"][0])]).integers(
        0, 256, (ROWS, 4, 4, 3), np.uint8
    )


def write_shards(steps: StepStore, shards: int, inputs: dict[str, str], column: str = "image") -> None:
    for number in range(shards):
        start, stop = number * ROWS, (number + 1) * ROWS
        columns = {
            "index": np.arange(start, stop),
            "label": np.arange(start, stop) % 3,
            column: images_of(number, inputs),
        }
        steps.write_shard(
            number, columns, start=start, stop=stop, inputs=inputs, seconds=1.0, device="cpu", versions={}
        )


def seal(steps: StepStore, start: int, stop: int, inputs: dict[str, str] = INPUTS):
    done = steps.done("shards", inputs)
    return steps.seal(
        start, stop, inputs, [done[number] for number in range(start // ROWS, -(-stop // ROWS))]
    )


@pytest.fixture(params=["local", "s3"])
def root(request, tmp_path) -> str:
    """Returns a root of this URL, marked as one."""
    url = str(tmp_path / "root") if request.param == "local" else request.getfixturevalue("s3_url")
    open_store(url).put("dgflow.json", b'{"dgflow_root": 1}')
    return url


@pytest.fixture
def local_root(tmp_path) -> str:
    open_store(str(tmp_path / "root")).put("dgflow.json", b'{"dgflow_root": 1}')
    return str(tmp_path / "root")


def test_an_address_gives_images_labels_seed_and_digest_of_the_slice(root):
    steps = make_step(open_store(root))
    manifest = seal(steps, 5, 33)
    images = open_images(f"{root}/{steps.name}")
    expected = np.concatenate([images_of(number, INPUTS) for number in range(4)])[5:33]
    assert (images.rows, images.first_index, images.seed, images.digest) == (28, 5, 7, manifest.digest)
    assert np.array_equal(images.read(0, 28), list(expected))
    assert np.array_equal(pickle.loads(pickle.dumps(images)).read(3, 17), list(expected[3:17]))
    assert images.labels is not None and images.labels.tolist() == [index % 3 for index in range(5, 33)]


def test_a_step_is_told_from_files_and_folders(root):
    steps = make_step(open_store(root))
    assert is_step(f"{root}/{steps.name}") and is_step(f"{root}/gen") and is_step(f"{root}/gen[0:3]")
    assert (
        not is_step(root)
        and not is_step(f"{root}/dgflow.json")
        and not is_step(f"{root}/{steps.name}/shards")
    )


def test_a_part_of_a_sealed_slice_has_the_digest_that_it_has_when_it_is_sealed(local_root):
    steps = make_step(open_store(local_root))
    seal(steps, 0, 40)
    found = find_slice(f"{local_root}/{steps.name[:12]}[12:20]")
    images = open_images(f"{local_root}/{steps.name[:12]}[12:20]")
    assert found.digest == seal(steps, 12, 20).digest == images.digest
    assert np.array_equal(images.read(0, 8), list(images_of(1, INPUTS)[2:10]))


def test_without_a_range_the_longest_sealed_slice_is_meant(local_root):
    steps = make_step(open_store(local_root))
    for start, stop in [(0, 10), (10, 40), (30, 40)]:
        seal(steps, start, stop)
    found = find_slice(f"{local_root}/{steps.name}")
    assert (found.start, found.stop) == (10, 40)


def test_slices_of_one_length_are_listed(local_root):
    steps = make_step(open_store(local_root))
    seal(steps, 0, 20)
    seal(steps, 20, 40)
    with pytest.raises(ValueError, match=r"several of the same length: \[0:20\], \[20:40\]; add one of them"):
        find_slice(f"{local_root}/{steps.name}")


def test_slices_made_from_different_inputs_are_listed_unless_a_range_tells_them_apart(local_root):
    steps = make_step(open_store(local_root))
    write_shards(steps, 4, OTHER_INPUTS)
    seal(steps, 0, 20)
    seal(steps, 0, 30, OTHER_INPUTS)
    ids = sorted(fingerprint(inputs)[:16] for inputs in (INPUTS, OTHER_INPUTS))
    for address in (f"{local_root}/{steps.name}", f"{local_root}/{steps.name}[0:10]"):
        with pytest.raises(ValueError, match="made from different inputs") as raised:
            find_slice(address)
        assert all(each in str(raised.value) for each in ids)
    assert np.array_equal(
        open_images(f"{local_root}/{steps.name}[20:30]").read(0, 10), list(images_of(2, OTHER_INPUTS))
    )


def test_a_slice_that_is_not_sealed_says_what_is_there(local_root):
    steps = make_step(open_store(local_root))
    with pytest.raises(ValueError, match=r"found none \(4 shards are done\); run the recipe"):
        find_slice(f"{local_root}/{steps.name}")
    seal(steps, 0, 20)
    with pytest.raises(
        ValueError, match=r"holds \[10:40\] of .* found the sealed slices \[0:20\] \(4 shards are done\)"
    ):
        find_slice(f"{local_root}/{steps.name}[10:40]")


def test_a_name_that_none_or_several_steps_have_lists_them(local_root):
    names = [make_step(open_store(local_root), seed=seed).name for seed in (1, 2)]
    with pytest.raises(ValueError, match="found 2 of that prefix: ") as raised:
        find_slice(f"{local_root}/generate")
    assert all(name in str(raised.value) for name in names)
    with pytest.raises(ValueError, match="begins with 'features', found the steps generate-"):
        find_slice(f"{local_root}/features")


def test_the_root_itself_lists_its_steps(root):
    name = make_step(open_store(root)).name
    with pytest.raises(
        ValueError, match=f"found the root of a run; add the name of one of its steps: {name}"
    ):
        open_images(root)


def test_a_place_that_is_no_root_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"expected a dgflow root at .*, found no dgflow\.json"):
        find_slice(f"{tmp_path}/generate-3fa9[0:10]")


@pytest.mark.parametrize("end", ["[5:5]", "[9:3]", "[:0]"])
def test_an_empty_range_is_refused(local_root, end):
    steps = make_step(open_store(local_root))
    with pytest.raises(ValueError, match="start < stop"):
        find_slice(f"{local_root}/{steps.name}{end}")


@pytest.mark.parametrize("end", ["[5:]", "[a:b]", "[0:10:2]", "[3]"])
def test_another_form_of_range_is_told_what_an_address_is(local_root, end):
    steps = make_step(open_store(local_root))
    with pytest.raises(ValueError, match=r"such as runs/digits/generate-3fa9\[0:5000\]"):
        open_images(f"{local_root}/{steps.name}{end}")


def test_a_step_of_the_working_folder_needs_no_slash(local_root, monkeypatch):
    steps = make_step(open_store(local_root))
    seal(steps, 0, 40)
    monkeypatch.chdir(local_root)
    assert open_images(steps.name[:12]).digest == open_images(f"{steps.name}[:40]").digest


@pytest.mark.parametrize(
    ("column", "says"),
    [("latent", "found latents; add a step that decodes them"), ("features", "makes images")],
)
def test_a_step_that_makes_no_images_says_what_it_makes(local_root, column, says):
    steps = make_step(open_store(local_root), column=column)
    seal(steps, 0, 40)
    with pytest.raises(ValueError, match=says):
        open_images(f"{local_root}/{steps.name}")


def test_only_what_was_generated_has_a_seed(local_root):
    steps = make_step(open_store(local_root), kind="import-images")
    seal(steps, 0, 40)
    assert open_images(f"{local_root}/{steps.name}").seed is None


def test_a_step_can_be_exported(local_root, tmp_path):
    steps = make_step(open_store(local_root))
    seal(steps, 0, 40)
    export_images(open_images(f"{local_root}/{steps.name}[25:40]"), str(tmp_path / "out"), "png")
    images = open_images(str(tmp_path / "out"))
    assert (images.first_index, images.rows) == (25, 15)
    assert np.array_equal(images.read(5, 15), list(images_of(3, INPUTS)))
