"""The protocols are those of the standard evaluators, and what is asked for beyond them is said."""

import pytest
from torch_fidelity.defaults import DEFAULTS

from dgflow.metrics.protocols import CUSTOM, METRICS, PROTOCOLS, chosen, outside_protocol


def test_the_protocols_measure_what_their_evaluators_do():
    assert {name: protocol.metrics for name, protocol in PROTOCOLS.items()} == {
        "adm": ("fid", "sfid", "is", "precision", "recall", "f1"),
        "edm": ("fid",),
        "clean": ("fid", "kid"),
    }
    assert {protocol.samples for protocol in PROTOCOLS.values()} == {50_000}
    assert {name: protocol.front_end for name, protocol in PROTOCOLS.items()} == {
        "adm": "adm",
        "edm": "edm",
        "clean": "clean",
    }


def test_adm_compares_with_10000_reference_images_3_neighbours_and_splits_of_5000():
    adm = PROTOCOLS["adm"]
    assert (adm.manifold_images, adm.neighbours, adm.split_size) == (10_000, 3, 5000)


def test_the_seed_ranges_of_edm_follow_each_other_and_hold_50000_samples_each():
    assert [(first, stop - 1) for first, stop in PROTOCOLS["edm"].seed_ranges] == [
        (0, 49_999),
        (50_000, 99_999),
        (100_000, 149_999),
    ]


def test_the_kernel_distance_is_set_as_in_torch_fidelity():
    clean = PROTOCOLS["clean"]
    expected = tuple(DEFAULTS[name] for name in ("kid_subsets", "kid_subset_size", "rng_seed"))
    assert (clean.kid_subsets, clean.kid_subset_size, clean.kid_seed) == expected


def test_metrics_are_chosen_in_the_order_of_the_table_and_once():
    assert chosen(PROTOCOLS["clean"]) == ("fid", "kid")
    assert chosen(PROTOCOLS["edm"], ["kid", "precision", "fid", "kid"]) == ("fid", "precision", "kid")


@pytest.mark.parametrize(
    ("names", "found"), [(["fid", "lpips"], "'lpips'"), (["FID"], "'FID'"), ([], "none")]
)
def test_unknown_metrics_are_named_beside_the_known_ones(names, found):
    with pytest.raises(ValueError, match=f"{', '.join(METRICS)}, found {found}"):
        chosen(PROTOCOLS["adm"], names)


def test_metrics_beyond_the_protocol_get_a_note():
    assert outside_protocol(PROTOCOLS["edm"], ["fid", "is", "kid"]) == [
        "not part of protocol edm, so do not compare with published numbers: IS, KID"
    ]
    assert outside_protocol(PROTOCOLS["clean"], ["fid", "kid"]) == []
    assert outside_protocol(CUSTOM, METRICS) == []
