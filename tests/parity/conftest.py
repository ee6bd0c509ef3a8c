"""The project's own golden folder is small, and has no case of some kinds: their tests are taken out there,
by name, instead of showing as skipped. With any other folder nothing is taken out."""

from __future__ import annotations

import pytest
from parity import goldens

LEFT_OUT = {
    "test_ddpm_and_ddim_are_the_published_ones",
    "test_every_output_of_the_original_is_reproduced_from_its_weights",
    "test_no_discriminator_guides_nowhere_and_one_noise_level_for_a_batch_is_refused",
    "test_probability_log_ratio_and_the_time_that_the_discriminator_is_told_are_the_published_ones",
    "test_the_geometric_ode_of_lsgm_has_the_same_solution_in_linear_vp_time",
    "test_the_gradient_of_the_classifier_is_the_published_one",
    "test_the_gradient_of_the_latent_discriminator_is_the_published_one",
    "test_the_gradient_of_the_log_ratio_is_the_published_one",
}
"""Tests whose networks are too large for the small folder: ADM classifiers and U-Nets, NCSN++.

Others of theirs stand in for each kind.
"""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = [
        item
        for item in items
        if item.path.parent == goldens.REPOSITORY / "tests" / "parity" and isinstance(item, pytest.Function)
    ]
    empty = {item.originalname: item for item in here if _has_no_case(item)}
    of_networks = {name for name, item in empty.items() if not item.path.name.startswith("test_metric_")}
    if goldens.folder() == goldens.SMALL and (unlisted := of_networks - LEFT_OUT):
        raise pytest.UsageError(
            f"tests/goldens/networks has no case for {sorted(unlisted)}: add one, or list them in LEFT_OUT"
        )
    if goldens.folder() == goldens.SMALL:
        taken_out = [item for item in here if _has_no_case(item) and item.originalname in LEFT_OUT]
        config.hook.pytest_deselected(items=taken_out)
        items[:] = [item for item in items if item not in taken_out]


def _has_no_case(item: pytest.Item) -> bool:
    mark = item.get_closest_marker("skip")
    return mark is not None and "empty parameter set" in str(mark.kwargs.get("reason", ""))
