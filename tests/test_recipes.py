import json
from dataclasses import FrozenInstanceError, replace

import pytest

from colorize_utils.recipes import DISTRIBUTION, GAN_L1, GAN_MSE, RECIPES, WGAN_GP, Recipe


def test_numbers_are_the_submissions():
    for recipe, reconstruction in ((GAN_L1, "l1"), (GAN_MSE, "mse")):
        assert (recipe.learning_rate, recipe.betas) == (2e-4, (0.5, 0.999))
        assert (recipe.lambda_adv, recipe.lambda_rec, recipe.reconstruction) == (0.01, 0.99, reconstruction)
        assert (recipe.epochs, recipe.size, recipe.width, recipe.n_critic) == (350, 256, 1.0, 1)
        assert (recipe.generator, recipe.adversary) == ("unet", "discriminator")
    assert (WGAN_GP.n_critic, WGAN_GP.lambda_gp, WGAN_GP.critic_batch_size, WGAN_GP.epochs) == (2, 10, 64, 21)
    assert (WGAN_GP.lambda_rec, WGAN_GP.lambda_adv, WGAN_GP.reconstruction) == (0.95, 0.05, "mse")
    assert (WGAN_GP.learning_rate, WGAN_GP.betas) == (1e-4, (0.0, 0.9))
    assert (WGAN_GP.generator, WGAN_GP.adversary) == ("wgan-unet", "critic")


def test_the_submissions_flaws_are_kept_by_default():
    for recipe in (GAN_L1, GAN_MSE, WGAN_GP):
        assert recipe.discriminator_sigmoid
        assert not (recipe.bounded or recipe.keep_luminance or recipe.flip or recipe.decay)
        assert not (recipe.augment or recipe.surroundings or recipe.degrade or recipe.dropout or recipe.ema_decay)


def test_decay_is_linear_over_the_second_half():
    recipe = replace(GAN_L1, epochs=10, decay=True, learning_rate=1.0)
    rates = [recipe.learning_rate_in(epoch) for epoch in range(10)]
    assert rates == pytest.approx([1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    assert {GAN_L1.learning_rate_in(epoch) for epoch in (0, 349)} == {2e-4}


def test_recipes_are_frozen_and_survive_json():
    with pytest.raises(FrozenInstanceError):
        GAN_L1.epochs = 1
    for recipe in RECIPES.values():
        assert Recipe(**json.loads(json.dumps(recipe.as_dict()))) == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generator": "vgg"}, "generator must be one of"),
        ({"adversary": "teacher"}, "adversary must be one of"),
        ({"reconstruction": "l2"}, "reconstruction must be one of"),
        ({"epochs": 0}, "epochs must be positive, got 0"),
        ({"batch_size": -1}, "batch_size must be positive"),
        ({"size": 32, "batch_size": 1}, "needs a batch_size of 2 or more"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"size": 100}, "size must be a multiple of 32, got 100"),
    ],
)
def test_nonsense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(GAN_L1, **change)


@pytest.mark.parametrize(
    ("recipe", "change", "message"),
    [
        (DISTRIBUTION, {"bounded": True}, "bounded .*: gan-l1, gan-mse, wgan$"),
        (DISTRIBUTION, {"keep_luminance": False}, "keep_luminance must be True"),
        (WGAN_GP, {"dropout": 0.1}, "dropout .*: gan-l1, gan-mse, distribution, multiscale$"),
        (WGAN_GP, {"discriminator_sigmoid": False}, "discriminator_sigmoid.*: gan-l1, gan-mse$"),
        (GAN_L1, {"n_critic": 5}, "n_critic .*: wgan$"),
        (DISTRIBUTION, {"lambda_adv": 100.0}, "lambda_adv .*: gan-l1, gan-mse, wgan$"),
    ],
)
def test_what_a_generator_does_not_have_is_refused(recipe, change, message):
    with pytest.raises(ValueError, match=message):
        replace(recipe, **change)


def test_recipes_of_earlier_versions_are_read_without_what_has_no_effect():
    earlier = GAN_L1.as_dict() | {"critic_batch_size": 8, "lambda_gp": 1000.0, "lambda_dist": 3.0}
    assert Recipe.from_dict(earlier) == GAN_L1
    earlier = DISTRIBUTION.as_dict() | {"lambda_adv": 0.05, "discriminator_sigmoid": False}
    earlier["average"] = earlier.pop("ema_decay")
    assert Recipe.from_dict(earlier) == DISTRIBUTION
    with pytest.raises(ValueError, match="generator must be one of"):
        Recipe.from_dict({"name": "later", "generator": "transformer"})
