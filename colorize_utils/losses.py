"""Training losses: reconstruction, adversarial and Wasserstein terms, the gradient penalty.

Every term is the mean over its batch, a scalar. `real` and `fake` are colour pictures (B, 3, H, W), RGB in [0, 1].
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from colorize_utils import palette
from colorize_utils.colour import chroma_of

RECONSTRUCTION = {"l1": F.l1_loss, "mse": F.mse_loss}
"""Reconstruction terms by name.

L1 is the mean of |Y − Ŷ|. Where several colours are possible, the best prediction under L1 is, channel by channel,
their median, which sides with the majority; under MSE it is their mean, which lies between them.
"""


def distribution_loss(logits: Tensor, real: Tensor) -> Tensor:
    """Cross-entropy between the predicted distribution over colours and the true colour of each place.

    The true chroma is averaged over the pixels of a place and divided among the four colours of the palette around it.

    Args:
        logits: (B, COLOURS, h, w).
        real: (B, 3, H, W), RGB in [0, 1]; H and W are the same multiple of h and w, in most cases 2.

    Returns:
        A scalar, in nats.

    Source:
        Zhang et al. 2016, "Colorful Image Colorization", equation 2, without the weights that favour rare colours.
    """
    chroma = chroma_of(F.avg_pool2d(real, kernel_size=real.shape[-1] // logits.shape[-1]))
    indices, shares = palette.encode(chroma.permute(0, 2, 3, 1).reshape(-1, 2))  # (N, 4) each, N = B·h·w
    beliefs = logits.permute(0, 2, 3, 1).reshape(-1, palette.COLOURS).log_softmax(dim=1)  # (N, COLOURS)
    return -(beliefs.gather(1, indices) * shares).sum(dim=1).mean()


def discriminator_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """½ (BCE(D(real), 1) + BCE(D(fake), 0)), each with logits.

    The half slows the discriminator relative to the generator.

    Args:
        real_scores: D(real), logits of any shape.
        fake_scores: D(fake), logits of any shape.

    Returns:
        A scalar.

    Source:
        Goodfellow et al. 2014, "Generative Adversarial Nets", equation 1; the half: Isola et al. 2017 (pix2pix),
        section 3.3.
    """
    real = F.binary_cross_entropy_with_logits(real_scores, torch.ones_like(real_scores))
    fake = F.binary_cross_entropy_with_logits(fake_scores, torch.zeros_like(fake_scores))
    return 0.5 * (real + fake)


def adversarial_loss(fake_scores: Tensor) -> Tensor:
    """BCE(D(fake), 1) with logits: the generator's non-saturating loss.

    Args:
        fake_scores: D(fake), logits of any shape.

    Returns:
        A scalar.

    Source:
        Goodfellow et al. 2014, "Generative Adversarial Nets", section 3.
    """
    return F.binary_cross_entropy_with_logits(fake_scores, torch.ones_like(fake_scores))


def critic_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """The critic's loss: mean D(fake) − mean D(real).

    Its negative estimates the Wasserstein distance between real and generated pictures. The gradient penalty is not
    part of it.

    Args:
        real_scores: D(real), of any shape.
        fake_scores: D(fake), of any shape.

    Returns:
        A scalar.

    Source:
        Arjovsky et al. 2017, "Wasserstein GAN", equation 2.
    """
    return fake_scores.mean() - real_scores.mean()


def wasserstein_loss(fake_scores: Tensor) -> Tensor:
    """The generator's part of the Wasserstein distance that `critic_loss` estimates: −mean D(fake).

    Args:
        fake_scores: D(fake), of any shape.

    Returns:
        A scalar.
    """
    return -fake_scores.mean()


def gradient_norms(
    critic: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    rng: torch.Generator | None = None,
    epsilon: Tensor | None = None,
) -> Tensor:
    """‖∇ₓ̂ D(x̂)‖₂ of each picture, x̂ = ε·real + (1 − ε)·fake, one ε ~ U[0, 1] a picture: the critic's slope there.

    It is computed in float32 whatever the surrounding autocast says, since the square of a small gradient underflows
    in half precision.

    Args:
        critic: Colour (B, 3, H, W) → scores; each picture's score depends on that picture alone.
        real: (B, 3, H, W), RGB in [0, 1].
        fake: The same shape; no gradient flows back into its generator.
        rng: The CPU generator that ε is drawn from; None draws from PyTorch's global one.
        epsilon: (B, 1, 1, 1), ε where it was drawn already.

    Returns:
        (B,), differentiable in the critic's weights.

    Source:
        Gulrajani et al. 2017, "Improved Training of Wasserstein GANs", algorithm 1, lines 4–7.
    """
    with torch.autocast(real.device.type, enabled=False):
        real, fake = real.detach().float(), fake.detach().float()
        if epsilon is None:
            epsilon = torch.rand(len(real), 1, 1, 1, generator=rng).to(real.device)
        mixed = (epsilon * real + (1 - epsilon) * fake).requires_grad_(True)  # (B, 3, H, W)
        # The scores are summed: a critic without batch statistics gives each picture its own gradient.
        (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)  # (B, 3, H, W)
        return gradient.flatten(1).norm(dim=1)


def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    rng: torch.Generator | None = None,
    epsilon: Tensor | None = None,
) -> Tensor:
    """Mean over the batch of (‖∇ₓ̂ D(x̂)‖₂ − 1)², the norms as of `gradient_norms`.

    Args:
        critic: As of `gradient_norms`, and so are the other arguments.
        real: (B, 3, H, W), RGB in [0, 1].
        fake: The same shape.
        rng: The CPU generator that ε is drawn from.
        epsilon: (B, 1, 1, 1), ε where it was drawn already.

    Returns:
        A scalar, differentiable in the critic's weights.

    Source:
        Gulrajani et al. 2017, "Improved Training of Wasserstein GANs", algorithm 1, lines 4–7 (without its λ).
    """
    norms = gradient_norms(critic, real, fake, rng, epsilon)  # (B,), float32
    with torch.autocast(real.device.type, enabled=False):
        return (norms - 1).square().mean()
