"""The catalogue's entries: complete, plain, and loaded without torch. Their networks are built in
`steps/test_pretrained.py`."""

import subprocess
import sys

import pytest

from dgflow.networks.catalogue import CATALOGUE, catalogue_file
from dgflow.store.identity import canonical_json
from dgflow.store.objects import check_key
from dgflow.weights.sources import parse_source


@pytest.mark.parametrize("name", CATALOGUE)
def test_an_entry_is_plain_data_with_a_source_or_a_page_and_a_name_fit_for_the_root(name: str) -> None:
    entry = CATALOGUE[name]
    check_key(f"weights/{entry.name}/{entry.file_name}")
    assert all(canonical_json(found.network.model_dump()) for found in entry.network.values())
    assert entry.page.startswith("https://") and entry.licence
    if entry.source:
        source = parse_source(entry.source)
        assert source.kind in ("https", "hf") and source.file_name == entry.file_name


def test_the_published_figures_are_those_of_the_papers() -> None:
    published = {name: entry.published_fid for name, entry in CATALOGUE.items() if entry.published_fid}
    assert published["edm-cifar10-32x32-uncond-vp"] == 2.03 and published["edm-cifar10-32x32-cond-vp"] == 1.82
    assert published["edm-ffhq-64x64-uncond-vp"] == 2.39 and published["lsgm-cifar10"] == 2.10
    assert published["soft-truncation-celeba64"] == 1.90 and published["dit-xl-2-256"] == 9.62


def test_a_name_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(
        ValueError, match="expected one of edm-cifar10-32x32-uncond-vp, .*; found 'edm-cifar10'"
    ):
        catalogue_file("edm-cifar10")


def test_the_catalogue_and_fetching_load_no_torch() -> None:
    program = "import sys, dgflow.networks.catalogue, dgflow.weights.fetch; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
