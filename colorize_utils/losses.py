"""What the networks are trained to make small: reconstruction, adversarial and Wasserstein terms, gradient penalty.

Every term is the mean over its batch, a scalar. `real` and `fake` are colour pictures (B, 3, H, W), RGB in [0, 1].
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from colorize_utils import palette
from colorize_utils.colour import chroma_of

RECONSTRUCTION = {"l1": F.l1_loss, "mse": F.mse_loss}
"""Reconstruction terms by name. L1 is the mean of |Y − Ŷ|: its best single guess is, channel by channel, the median of
what is possible, which takes the majority's side; that of MSE is the mean, which lies between them."""


def distribution_loss(logits: Tensor, real: Tensor) -> Tensor:
    """Cross-entropy between what a network believes of each place's colour and what it is: a scalar, in nats.

    logits: (B, COLOURS, H/2, W/2); real: its chroma is averaged over 2×2 pixels and shared out among the four colours
    of the palette around it. Zhang et al. 2016, "Colorful Image Colorization", equation 2, without the weights that
    favour rare colours.
    """
    chroma = chroma_of(F.avg_pool2d(real, kernel_size=2))
    indices, shares = palette.encode(chroma.permute(0, 2, 3, 1).reshape(-1, 2))  # (N, 4) each, N = B·H/2·W/2
    beliefs = logits.permute(0, 2, 3, 1).reshape(-1, palette.COLOURS).log_softmax(dim=1)  # (N, COLOURS)
    return -(beliefs.gather(1, indices) * shares).sum(dim=1).mean()


def discriminator_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """½ (BCE(D(real), 1) + BCE(D(fake), 0)), each with logits; scores of any shape.

    Goodfellow et al. 2014, "Generative Adversarial Nets", equation 1; the half as in Isola et al. 2017 (pix2pix),
    section 3.3, which slows the discriminator relative to the generator.
    """
    real = F.binary_cross_entropy_with_logits(real_scores, torch.ones_like(real_scores))
    fake = F.binary_cross_entropy_with_logits(fake_scores, torch.zeros_like(fake_scores))
    return 0.5 * (real + fake)


def adversarial_loss(fake_scores: Tensor) -> Tensor:
    """BCE(D(fake), 1) with logits: the generator's non-saturating loss (Goodfellow et al. 2014, section 3)."""
    return F.binary_cross_entropy_with_logits(fake_scores, torch.ones_like(fake_scores))


def critic_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """mean D(fake) − mean D(real): the negative of the critic's gap, an estimate of the Wasserstein distance.

    Arjovsky et al. 2017, "Wasserstein GAN", equation 2; the penalty is added apart.
    """
    return fake_scores.mean() - real_scores.mean()


def wasserstein_loss(fake_scores: Tensor) -> Tensor:
    """−mean D(fake): the generator's side of the same distance."""
    return -fake_scores.mean()


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, rng: torch.Generator | None = None
) -> Tensor:
    """Mean over the batch of (‖∇ₓ̂ D(x̂)‖₂ − 1)², x̂ = ε·real + (1 − ε)·fake, one ε ~ U[0, 1] a picture.

    Gulrajani et al. 2017, "Improved Training of Wasserstein GANs", algorithm 1, lines 4–7 (without its λ).

    real, fake: (B, 3, H, W), same shape; no gradient flows back into `fake`'s generator. rng: a CPU generator that
    ε is drawn from. Computed in float32 whatever the surrounding autocast says, since the square of a small gradient
    underflows in half precision. Returns a scalar, differentiable in the critic's weights.
    """
    with torch.autocast(real.device.type, enabled=False):
        real, fake = real.detach().float(), fake.detach().float()
        epsilon = torch.rand(len(real), 1, 1, 1, generator=rng).to(real.device)
        mixed = (epsilon * real + (1 - epsilon) * fake).requires_grad_(True)  # (B, 3, H, W)
        # The scores are summed: a critic without batch statistics gives each picture its own gradient.
        (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)  # (B, 3, H, W)
        return (gradient.flatten(1).norm(dim=1) - 1).square().mean()
