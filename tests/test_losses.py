import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from torch import nn

from colorize_utils import losses


def test_discriminator_loss_is_the_mean_of_two_cross_entropies():
    real, fake = torch.randn(4, 1, 4, 4), torch.randn(4, 1, 4, 4)
    probabilities = torch.sigmoid(torch.cat([real, fake])).flatten().double().numpy()
    labels = np.repeat([1, 0], real.numel())
    assert losses.discriminator_loss(real, fake).item() == pytest.approx(log_loss(labels, probabilities), rel=1e-5)


def test_adversarial_loss_rewards_fooling():
    scores = torch.randn(5, 1, 2, 2)
    expected = -torch.sigmoid(scores).log().mean()
    torch.testing.assert_close(losses.adversarial_loss(scores), expected)
    assert losses.adversarial_loss(scores + 1) < losses.adversarial_loss(scores)


def test_a_sigmoid_before_bce_with_logits_bounds_the_loss_from_below():
    """The submission's flaw: a perfect discriminator's loss stays over 0.5 where it should reach 0."""
    perfect = torch.full((8,), 100.0)
    assert losses.discriminator_loss(perfect, -perfect).item() == pytest.approx(0, abs=1e-6)
    doubled = losses.discriminator_loss(torch.sigmoid(perfect), torch.sigmoid(-perfect)).item()
    assert doubled == pytest.approx(0.5 * (np.log1p(np.exp(-1)) + np.log(2)), abs=1e-6)


def test_wasserstein_terms():
    real, fake = torch.tensor([1.0, 2.0]), torch.tensor([-1.0, 4.0])
    assert losses.critic_loss(real, fake).item() == 0.0
    assert losses.critic_loss(real + 3, fake).item() == -3.0
    assert losses.wasserstein_loss(fake).item() == -1.5


class LinearCritic(nn.Module):
    """D(x) = w·x, whose gradient is w at every x."""

    def __init__(self, size, norm):
        super().__init__()
        direction = torch.randn(3 * size * size)
        self.weight = nn.Parameter(norm * direction / direction.norm())

    def forward(self, colour):
        return colour.flatten(1) @ self.weight


@pytest.mark.parametrize("norm", [0.2, 1.0, 3.5])
def test_gradient_penalty_of_a_linear_critic_is_known(norm):
    critic = LinearCritic(8, norm)
    penalty = losses.gradient_penalty(critic, torch.rand(5, 3, 8, 8), torch.rand(5, 3, 8, 8))
    assert penalty.item() == pytest.approx((norm - 1) ** 2, abs=1e-5)
    penalty.backward()
    # d(‖w‖ − 1)²/dw = 2 (‖w‖ − 1) w/‖w‖
    expected = 2 * (norm - 1) * critic.weight.detach() / norm
    torch.testing.assert_close(critic.weight.grad, expected, atol=1e-4, rtol=1e-3)


def test_gradient_penalty_is_taken_a_picture_at_a_time_on_the_line_between():
    """D(x) = ½‖x‖² has gradient x̂, so that ‖x̂ₙ‖ for the same ε, by hand, gives the penalty."""
    real, fake = torch.rand(6, 3, 4, 4), torch.rand(6, 3, 4, 4) * 3
    fake.requires_grad_(True)
    penalty = losses.gradient_penalty(
        lambda x: 0.5 * x.flatten(1).square().sum(1), real, fake, torch.Generator().manual_seed(3)
    )
    epsilon = torch.rand(6, 1, 1, 1, generator=torch.Generator().manual_seed(3))
    assert epsilon.unique().numel() == 6
    mixed = epsilon * real + (1 - epsilon) * fake.detach()
    assert penalty.item() == pytest.approx((mixed.flatten(1).norm(dim=1) - 1).square().mean().item(), rel=1e-5)
    assert not torch.autograd.grad(penalty, fake, allow_unused=True)[0]


def test_gradient_penalty_is_float32_under_autocast():
    seen = []

    class Spy(LinearCritic):
        def forward(self, colour):
            seen.append((colour.dtype, torch.is_autocast_enabled("cpu")))
            return super().forward(colour)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        penalty = losses.gradient_penalty(Spy(8, 2.0), torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8).bfloat16())
    assert seen == [(torch.float32, False)]
    assert penalty.dtype == torch.float32


def test_reconstruction_terms():
    fake, real = torch.tensor([0.0, 0.5]), torch.tensor([1.0, 0.0])
    assert losses.RECONSTRUCTION["l1"](fake, real).item() == 0.75
    assert losses.RECONSTRUCTION["mse"](fake, real).item() == 0.625
