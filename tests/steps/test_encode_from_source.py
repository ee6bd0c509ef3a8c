"""Encode that reads images directly from their source: bit-identical to the latents of stored images, with
all checks of the import, and no pixels in the root."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from images.archives import png, write_zip
from inprocess import complete
from steps.importing import Take, bound
from steps.shipped import recipe
from steps.toy_networks import SD, pretrained

import dgflow as dg
from dgflow.engine.plan import plan
from dgflow.engine.root import Root
from dgflow.specs.graph import graph
from dgflow.specs.step import Slice, Weights
from dgflow.steps.encode import Encode
from dgflow.steps.sources.check_images import PreparedImages
from dgflow.store.address import ROOT_MARK, step_names
from dgflow.store.memory import MemoryStore
from dgflow.store.open import open_store
from dgflow.store.receipts import Manifest

SIDE, CLASSES, EACH = 16, 3, 6
COUNT = CLASSES * EACH
PIXELS = np.random.default_rng(3).integers(0, 256, (COUNT, SIDE + 2, SIDE + 5, 3), np.uint8)


def tree(pixels: np.ndarray) -> dict[str, bytes]:
    return {f"class{number // EACH}/{number % EACH}.png": png(image) for number, image in enumerate(pixels)}


def source(folder: Path, form: str) -> str:
    """Writes the same pictures, larger than the prepared size, to a folder, a zip or Parquet's row groups."""
    path = folder / f"pictures.{form}"
    if form == "zip":
        write_zip(path, tree(PIXELS))
    elif form == "parquet":
        columns = {"image": [png(image) for image in PIXELS], "label": [n // EACH for n in range(COUNT)]}
        pq.write_table(pa.table(columns), path, row_group_size=4)
    else:
        for name, data in tree(PIXELS).items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    return str(path)


def images_of(source: str, **fields) -> dg.ImportImages:
    given = {"num_classes": CLASSES, "image_size": SIDE, "preparation": "adm-center-crop", "shard_size": 5}
    return dg.ImportImages(source=source, seed=4, **given | fields)


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return pretrained(tmp_path_factory.mktemp("vae"), "vae", network=SD, image_size=SIDE).weights()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(uuid4().hex)


def sealed(step: Encode, store: MemoryStore) -> Manifest:
    """Makes all its latents; returns their manifest."""
    complete(Take(images=step.all()), store)
    found = Root(store).step_store(step)
    return next(
        Manifest.model_validate_json(store.get(entry.key)) for entry in store.list(f"{found.name}/manifests")
    )


def both(images: Slice, vae: Weights, **fields) -> list[Encode]:
    """Returns the step with stored pixels, and the step without."""
    return [
        Encode(images=images, vae=vae, shard_size=7, batch_size=3, keep_pixels=keep, **fields)
        for keep in (True, False)
    ]


@pytest.mark.parametrize("form", ["folder", "zip", "parquet"])
def test_latents_are_those_of_stored_images_to_the_last_bit_and_no_pixels_are_kept(tmp_path, vae, form):
    images = images_of(source(tmp_path, form))[2:16]
    stored, direct = both(images, vae)
    first, second = (MemoryStore(uuid4().hex) for _ in range(2))
    assert sealed(stored, first).digest == sealed(direct, second).digest  # covers labels and latents
    kinds = {name.rpartition("-")[0] for name in step_names(second)}
    assert kinds == {"list-images", "pretrained", "encode", "take"}
    assert stored.fingerprint == direct.fingerprint and stored.variant != direct.variant


def test_a_plan_without_pixels_has_the_encoding_alone_and_stores_only_latents(tmp_path, vae, store):
    images = images_of(source(tmp_path, "zip"), num_images=COUNT)
    plans = [plan(step.all(), store) for step in both(images.all(), vae)]
    stored, direct = ({each.step.kind: each for each in states} for states in plans)
    assert stored.keys() - direct.keys() == {"import-images"}
    pixels = stored["import-images"].stored_bytes
    assert pixels is not None and pixels > COUNT * SIDE * SIDE * 3
    assert direct["encode"].work == stored["encode"].work != []


def test_broken_pictures_are_left_out_and_named_in_the_manifest_of_the_latents(tmp_path, vae):
    path = Path(source(tmp_path, "folder"))
    (path / "class1" / "2.png").write_bytes(b"not an image")
    images = images_of(str(path), num_images=COUNT, skip_broken=2)
    stored, direct = both(images.all(), vae)
    first, second = (MemoryStore(uuid4().hex) for _ in range(2))
    kept, remarks = sealed(stored, first), sealed(direct, second).remarks
    assert kept.digest == sealed(direct, second).digest and not kept.remarks
    assert "left out class1/2.png: expected an image at" in remarks[0] and "1 intact ones" in remarks[1]
    assert any(name.startswith("check-images-") for name in step_names(second))


def test_a_broken_picture_is_named_with_the_way_to_leave_it_out(tmp_path, vae, store):
    path = Path(source(tmp_path, "folder"))
    data = (path / "class2" / "0.png").read_bytes()
    (path / "class2" / "0.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"expected an image at .*class2/0\.png, .*skip_broken=N"):
        sealed(both(images_of(str(path))[:COUNT], vae)[1], store)


def test_a_source_that_changed_since_its_listing_is_refused(tmp_path, vae, store):
    path = Path(source(tmp_path, "folder"))
    images = images_of(str(path))
    complete(images.listing_step(), store)
    larger = np.zeros((90, 91, 3), np.uint8)
    (path / "class0" / "3.png").write_bytes(png(larger))
    with pytest.raises(ValueError, match=r"class0/3\.png.*restore the earlier data"):
        sealed(both(images[:COUNT], vae)[1], store)


def test_more_images_than_the_source_has_are_refused_before_any_is_read(tmp_path, vae, store):
    images = images_of(source(tmp_path, "zip"))
    direct = both(images[: COUNT + 1], vae)[1]
    complete(images.listing_step(), store)
    complete(vae.step, store)
    with pytest.raises(ValueError, match=rf"within the {COUNT} samples of import-images, found \[0:19\]"):
        plan(direct.all(), store)


def test_classes_that_the_latents_lack_are_told(tmp_path, vae, store):
    images = images_of(source(tmp_path, "zip"))
    direct = both(images[:COUNT], vae)[1]
    inputs = complete(direct, store)
    order = images._order(inputs.below("images"), PreparedImages(images, inputs.below("images")))
    assert direct.doubts(direct.all(), inputs) == ()
    labels = order // EACH
    first = next(n for n in range(COUNT - 3) if len(set(labels[n : n + 3])) < CLASSES)
    (doubt,) = direct.doubts(direct[first : first + 3], inputs)
    assert f"import-images [{first}:{first + 3}] has no image of class" in doubt


def test_images_decoded_by_several_threads_are_the_same_in_the_same_order(tmp_path, store):
    path = Path(source(tmp_path, "folder"))
    images = images_of(str(path))
    inputs = bound(images, store)
    one, four = (images.reader(inputs, threads)(0, COUNT) for threads in (1, 4))
    assert all(np.array_equal(one[name], four[name]) for name in one)
    (path / "class2" / "0.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"class2/0\.png.*since it was listed|class2/0\.png.*earlier data"):
        images.reader(inputs, 4)(0, COUNT)


def test_only_images_of_an_import_can_be_read_without_being_stored(tmp_path, vae):
    images = images_of(source(tmp_path, "zip"))
    chosen = dg.OfClasses(images=images[:COUNT], classes=(0,), count=2)
    with pytest.raises(ValueError, match="keep_pixels: expected False only for images of an ImportImages"):
        Encode(images=chosen.all(), vae=vae, keep_pixels=False)


def test_a_root_without_pixels_describes_itself_and_makes_latents_again(tmp_path, vae):
    direct = both(images_of(source(tmp_path, "zip"))[:COUNT], vae)[1]
    url = str(tmp_path / "root")
    store = open_store(url)
    store.create("dgflow.json", ROOT_MARK)
    complete(Take(images=direct.all()), store)
    view = dg.open(url).step(direct.name)
    assert view.spec.fingerprint == direct.fingerprint
    again = view.again(7, 14, batch_size=3)
    assert np.array_equal(again["mean"], view.samples[7:14]["mean"])


@pytest.mark.parametrize(
    ("name", "options"), [("imagenet256_dit", {}), ("imagenet512_edm2", {"discriminator": True})]
)
def test_recipes_of_latents_are_the_same_without_pixels_but_for_the_import(name, options):
    workflow = recipe(name)
    stored, direct = (graph(workflow(keep_pixels=keep, **options)) for keep in (True, False))
    assert stored[-1].step.fingerprint == direct[-1].step.fingerprint
    left_out = {each.step.name for each in stored} - {each.step.name for each in direct}
    assert [name.rpartition("-")[0] for name in left_out] == ["import-images"]
