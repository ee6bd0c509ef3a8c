"""Match the gradient of a log-ratio to the error of a score network (Verine et al. 2025, "Improving
Discriminator Guidance", arXiv 2503.16117).

Guidance uses the gradient of the log-ratio, but cross-entropy fits its value: an overfitted discriminator has
a good value and a wrong gradient. On noisy real images x = x0 + sigma z the denoising error of the guided
score measures the gradient itself,

    |D(x) + sigma^2 grad_x l(x) - x0|^2 / sigma^2,

and is minimal if grad_x l is the score of the data minus the score of the network. Integrated over log sigma
it gives the bound on KL of theorem 2 (Kim et al. 2023), hence the weight. Training on it needs second-order
gradients. No generated image is needed, and the constant of l stays undetermined, so cross-entropy must fix
it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dgflow.diffusion.gain import Moments
from dgflow.diffusion.times import per_sample


def logits_and_gradients(ask: Callable[[Tensor], Tensor], y: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The logits [B] of y = x / sqrt(1 + sigma^2) at sigma [B], and their gradients in x, float64 like y.

    Both are differentiable in the network's parameters if gradients are enabled. `ask` returns the logits of
    y and must not mix samples.
    """
    learns = torch.is_grad_enabled()
    # Attention is computed by plain products, since the fast kernels have only a first derivative.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        y = y.detach().requires_grad_()
        logit_B = ask(y)
        (gradient,) = torch.autograd.grad(logit_B.sum(), y, create_graph=learns)
    mean = (1.0 + sigma.double().square()).rsqrt()
    return logit_B if learns else logit_B.detach(), per_sample(mean, y) * gradient.double()


def gradient_loss(items: Moments) -> Tensor:
    """(|D + sigma^2 g - x0|^2 - |D - x0|^2) / sigma^2 [B] of gradients g: the denoising error, summed over
    the values of an image, minus the error of the network alone, which no discriminator changes.

    The difference is expanded, so that no two large errors are subtracted. The loss is 0 for an uninformative
    discriminator and negative for a helpful one. Its integral over log sigma is -Gain at weight 1, in nats.
    """
    return items.energy - 2.0 * items.agreement
