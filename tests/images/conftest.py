"""Images that tests share."""

import numpy as np
import pytest


@pytest.fixture
def pixels() -> np.ndarray:
    """Returns 24 images of 6 x 5 pixels, uint8 [24, 6, 5, 3]."""
    return np.random.default_rng(0).integers(0, 256, (24, 6, 5, 3), np.uint8)


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 4, 24)
