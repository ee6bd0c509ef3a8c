"""Discriminator guidance in diffusers: three guided pipelines, and guided scheduler steps for any other loop.
Needs the package diffusers.
"""

try:
    import diffusers as _diffusers  # noqa: F401
except ImportError as error:
    raise ImportError(
        "dgflow.diffusers needs the package diffusers: pip install 'dgflow[diffusers]'"
    ) from error

from dgflow.diffusers.pipelines import (
    DiscriminatorGuidedDDIMPipeline,
    DiscriminatorGuidedDDPMPipeline,
    DiscriminatorGuidedDiTPipeline,
)
from dgflow.diffusers.steps import guided_steps

__all__ = [
    "DiscriminatorGuidedDDIMPipeline",
    "DiscriminatorGuidedDDPMPipeline",
    "DiscriminatorGuidedDiTPipeline",
    "guided_steps",
]
