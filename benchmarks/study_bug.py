"""The effect, on handwritten digits, of the bug behind the reproduction study's ensemble FID of 14.35.

    python benchmarks/study_bug.py --root runs/digits

Kleger & Sartor reproduced EDM-G++ on CIFAR-10: 2.094 without guidance, 1.880 with the published
discriminator, 2.084 with one of their own, and 14.348 with six together. Their ensemble averages the
discriminators' raw outputs, which are log-ratios, clips the mean to [1e-5, 1 - 1e-5] as if it were a
probability, and guides by log(p / (1 - p)) of the clipped mean p: the sigmoid was lost when the single
discriminator became a list. Therefore the gradient is 0 wherever the mean log-ratio z is below 0 or above 1,
and 1 / (z (1 - z)) times the correct one in between: at least 4 times, and unbounded towards both ends. All
samples with z < 0.5 count as fake, and are boosted.

`WithoutSigmoid` is that guidance; dgflow has no option for it. The recipe guides digits with it, by the
discriminators of `workflows/digits.py`, from the same seeds. In the root of `make digits`, the unguided and
the guided samples, the judge and the reference already exist.
"""

import importlib.util
from pathlib import Path
from typing import Annotated, Any

import dgflow as dg

CLIP = 1e-5


class WithoutSigmoid(dg.DiscriminatorGuidance):
    """Guidance as in the study's ensemble: by the mean of raw outputs, treated as a probability."""

    def build(self, network: Any, time: Any) -> Any:
        from torch import Tensor

        from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm

        def log_ratio(y: Tensor, time_B: Tensor, class_labels: Tensor | None) -> Tensor:
            outputs = network(y, time_B, class_labels).float()
            mean_B = outputs if outputs.ndim == 1 else outputs.mean(dim=0)
            probability = mean_B.clamp(CLIP, 1 - CLIP)
            return (probability / (1 - probability)).log()

        return DiscriminatorTerm(log_ratio, self.settings(), time)


def digits(**options: Any) -> dg.Evaluate:
    """Returns the recipe that makes everything but the arms of this benchmark."""
    path = Path(__file__).resolve().parents[1] / "workflows" / "digits.py"
    spec = importlib.util.spec_from_file_location("digits", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.workflow(**options)


def _guidance(samples: Any) -> dg.DiscriminatorGuidance:
    """Returns the single term that guides a slice of samples."""
    (term,) = samples.step.guidance
    return term


def workflow(
    members: Annotated[
        int, "number of discriminators; several are those of `digits_ensemble.py`, trained here if missing"
    ] = 1,
    samples: dg.options.Samples = 5_000,
    seeds: dg.options.Seeds = (101, 102, 103),
) -> dg.Evaluate:
    target = digits(samples=samples, seeds=seeds, discriminator_seeds=members)
    arms = {name: target.arms[name] for name in ("unguided", "guided")}
    terms = [_guidance(arm[0]) for name, arm in target.arms.items() if name != "unguided"]
    settings: dict[str, Any] = dict(terms[0])
    if members > 1:
        settings["discriminator"] = tuple(term.discriminator for term in terms)
    others: dict[str, dg.DiscriminatorGuidance] = {}
    if members > 1:
        together: dict[str, Any] = settings | {"combine": "probabilities"}
        others["mean probability"] = dg.DiscriminatorGuidance(**together)
    others["without the sigmoid"] = WithoutSigmoid(**settings)
    boosted: dict[str, Any] = settings | {"boost": dg.Boost()}
    others["without the sigmoid, boosted"] = WithoutSigmoid(**boosted)
    unguided = [part.step for part in arms["unguided"]]
    for name, term in others.items():
        arms[name] = tuple(step.model_copy(update={"guidance": (term,)})[:samples] for step in unguided)
    return target.model_copy(update={"arms": arms})


if __name__ == "__main__":
    dg.main(workflow)
