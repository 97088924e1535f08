from dataclasses import asdict

import pytest

from colorize_utils.notebook.profiles import PROFILES, choose_profile
from colorize_utils.recipes import GAN_L1, RECIPES, WGAN_GP

SCALE = {"epochs", "size", "width", "batch_size", "critic_batch_size", "learning_rate", "decay"}


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv("COLORIZE_PROFILE", raising=False)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_full_is_the_submission(recipe):
    profile = choose_profile("full", recipe)
    assert profile.recipe == recipe
    assert (profile.data, profile.test_pictures) == (None, None)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_profile_changes_the_scale_and_nothing_of_the_idea(recipe, name, device):
    changed = asdict(choose_profile(name, recipe, device).recipe)
    assert {field for field, value in asdict(recipe).items() if changed[field] != value} <= SCALE


def test_a_lesson_on_a_gpu_sees_more_pixels():
    on_cpu, on_gpu = (choose_profile("class", GAN_L1, device).recipe for device in ("cpu", "cuda"))
    assert on_gpu.size > on_cpu.size
    assert on_gpu.width > on_cpu.width


def test_a_lessons_critic_costs_no_more_than_four_pictures_a_picture_of_the_generator():
    for device in ("cpu", "cuda"):
        quick = choose_profile("class", WGAN_GP, device).recipe
        assert quick.n_critic * quick.critic_batch_size <= 4 * quick.batch_size


def test_a_short_run_is_saved_often():
    assert choose_profile("class", GAN_L1).save_minutes <= 1


def test_smoke_needs_no_files():
    assert choose_profile("smoke", GAN_L1).data == "generated"


def test_the_environment_goes_first(monkeypatch):
    monkeypatch.setenv("COLORIZE_PROFILE", "smoke")
    assert choose_profile("full", GAN_L1).name == "smoke"
    monkeypatch.setenv("COLORIZE_PROFILE", "")
    assert choose_profile("full", GAN_L1).name == "full"


def test_a_profile_that_is_none_is_told():
    with pytest.raises(ValueError, match=r"no profile 'quick'; there are full, class, smoke"):
        choose_profile("quick", GAN_L1)
