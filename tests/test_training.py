import json
import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from colorize_utils import checkpoints, devices, losses, training
from colorize_utils.checkpoints import load_generator
from colorize_utils.data import degradation, generator_for, load_splits, make_loader
from colorize_utils.devices import Precision, choose_device, choose_precision, frozen
from colorize_utils.errors import CheckpointError, DeviceError, TrainingError
from colorize_utils.losses import distribution_loss
from colorize_utils.metrics import Validation, gray_baseline, mean_chroma_baseline, scoreboard, validate
from colorize_utils.models import MeanColour, UNet, build_generator
from colorize_utils.multiscale import MultiscaleUNet
from colorize_utils.recipes import DISTRIBUTION, GAN_L1, GAN_MSE, MULTISCALE, RECIPES, WGAN_GP
from colorize_utils.training import ADVERSARY_CURVES, CURVES, Diverged, Interrupted, MovingAverage, Trainer, train

TINY = {"size": 32, "width": 1 / 16, "batch_size": 8, "epochs": 2}
CPU = torch.device("cpu")


def tiny(recipe, **changes):
    if recipe.adversary == "critic":
        changes = {"critic_batch_size": 12} | changes
    return replace(recipe, **(TINY | changes))


def run(recipe, splits, folder, **options):
    return train(recipe, splits, folder, **({"device": "cpu", "progress": False} | options))


def same(one, other):
    """Whether two nested states are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def state_of(folder):
    """A run's state without what differs between any two runs: times."""
    state = torch.load(folder / "state.pt", weights_only=True)
    del state["epoch_seconds"], state["history"]["seconds"]
    return state


# ---------------------------------------------------------------- the algorithm


@pytest.mark.parametrize("recipe", [GAN_L1, GAN_MSE])
def test_a_gan_step_is_the_algorithm_written_out(splits, recipe):
    """Generator forward; D(real), D(fake.detach()), discriminator step; D(fake), generator step."""
    recipe = tiny(recipe)
    torch.manual_seed(0)
    ours = Trainer(recipe, splits, CPU)
    torch.manual_seed(0)
    theirs = Trainer(recipe, splits, CPU)
    assert same(ours.generator.state_dict(), theirs.generator.state_dict())
    real, gray = splits.train[list(range(8))]
    reported = ours.step(real, gray, generator_for(0))

    bce, reconstruction = torch.nn.BCEWithLogitsLoss(), {"l1": torch.nn.L1Loss(), "mse": torch.nn.MSELoss()}
    generator, discriminator = theirs.generator, theirs.discriminator
    adam_g = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    adam_d = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    fake = generator(gray)
    scores = discriminator(real), discriminator(fake.detach())
    d_loss = (bce(scores[0], torch.ones_like(scores[0])) + bce(scores[1], torch.zeros_like(scores[1]))) / 2
    d_loss.backward()
    adam_d.step()
    scores = discriminator(fake)
    adversarial = bce(scores, torch.ones_like(scores))
    rebuilt = reconstruction[recipe.reconstruction](fake, real)
    g_loss = 0.01 * adversarial + 0.99 * rebuilt
    adam_g.zero_grad()
    g_loss.backward()
    adam_g.step()

    mse = (fake - real).square().mean()
    expected = torch.stack([d_loss, g_loss, rebuilt, adversarial, mse]).detach()
    torch.testing.assert_close(reported, expected)
    for one, other in ((ours.generator, generator), (ours.discriminator, discriminator)):
        for parameter, reference in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(parameter, reference, atol=2e-6, rtol=1e-4)


def test_a_critic_learns_n_critic_times_from_random_pictures_of_its_own(splits, monkeypatch):
    trainer = Trainer(tiny(WGAN_GP, n_critic=3), splits, CPU)
    batches = []
    update = trainer.update_discriminator

    def spy(real, fake, random, part):
        assert not fake.requires_grad
        assert torch.is_grad_enabled()
        batches.append(real)
        return update(real, fake, random, part)

    monkeypatch.setattr(trainer, "update_discriminator", spy)
    before = [parameter.clone() for parameter in trainer.discriminator.parameters()]
    real, gray = splits.train[list(range(8))]
    trainer.step(real, gray, generator_for(0))
    assert [len(batch) for batch in batches] == [12, 12, 12]
    assert not torch.equal(batches[0], batches[1])
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.discriminator.parameters(), strict=True))


def test_a_critics_batch_in_parts_is_the_same_step(splits):
    gradients = []
    for part in (4, 12):
        torch.manual_seed(0)
        trainer = Trainer(tiny(WGAN_GP), splits, CPU)
        trainer.micro_batch = part
        real, gray = splits.train[list(range(12))]
        trainer.optimizer_d.step = lambda *_, t=trainer: gradients.append(
            [parameter.grad.clone() for parameter in t.discriminator.parameters()]
        )
        trainer.update_discriminator(real, trainer.generate(gray)[0].detach(), generator_for(5))
    one, other = (torch.cat([gradient.flatten() for gradient in side]) for side in gradients)
    assert (one - other).norm() < 1e-4 * other.norm()


EFFECTIVE = {
    "lambda_rec": 0.5,
    "lambda_adv": 0.5,
    "lambda_dist": 2.0,
    "n_critic": 3,
    "critic_batch_size": 5,
    "lambda_gp": 1.0,
    "discriminator_sigmoid": False,
    "bounded": True,
    "dropout": 0.5,
    "places": 3,
    "weight_decay": 0.5,
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_option_changes_what_is_learned_or_is_refused(splits, name):
    """No option is accepted and then ignored."""

    def learned(recipe):
        torch.manual_seed(0)
        trainer = Trainer(recipe, splits, CPU)
        trainer.step(*splits.train[list(range(8))], generator_for(0))
        return {part: network.state_dict() for part, network in trainer.networks.items()}

    plain, refused = learned(tiny(RECIPES[name])), set()
    for option, value in EFFECTIVE.items():
        try:
            changed = tiny(RECIPES[name], **{option: value})
        except ValueError as error:
            assert option in str(error)
            refused.add(option)
        else:
            assert not same(learned(changed), plain), option
    assert len(refused) == {"gan-l1": 5, "gan-mse": 5, "wgan": 4, "distribution": 6, "multiscale": 6}[name]


@pytest.mark.parametrize("option", ["flip", "augment"])
@pytest.mark.parametrize("name", ["gan-l1", "wgan"])
def test_both_networks_learn_from_pictures_made_alike(splits, tmp_path, monkeypatch, name, option):
    """A critic that is shown its real pictures as they are learns to tell upright from turned."""
    seen = {"generator": [], "adversary": []}
    step, update = Trainer.step, Trainer.update_discriminator

    def stepped(self, real, gray, rng, hints=None):
        seen["generator"].append(real)
        return step(self, real, gray, rng, hints)

    def updated(self, real, fake, rng, part):
        seen["adversary"].append(real)
        return update(self, real, fake, rng, part)

    monkeypatch.setattr(Trainer, "step", stepped)
    monkeypatch.setattr(Trainer, "update_discriminator", updated)
    run(tiny(RECIPES[name], epochs=1, **{option: True}), splits, tmp_path)
    pictures, _ = splits.train[:]
    for batches in seen.values():
        batch = torch.cat(batches)
        as_they_are = (batch[:, None] == pictures).flatten(2).all(dim=2).any(dim=1).float().mean()
        mirrored = (batch[:, None] == pictures.flip(-1)).flatten(2).all(dim=2).any(dim=1).float().mean()
        if option == "flip":
            assert 0.2 < mirrored < 0.8
            assert as_they_are + mirrored == 1
        else:
            assert as_they_are == 0


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [GAN_L1, WGAN_GP])
def test_compiled_networks_train_the_same(splits, monkeypatch, recipe):
    """With the compiler's front and its derivatives; its back end would take minutes on a CPU."""
    compile = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda network: compile(network, backend="aot_eager"))
    losses = []
    for compiled in (False, True):
        torch.manual_seed(0)
        trainer = Trainer(tiny(recipe), splits, CPU, compiled=compiled)
        batch = splits.train[list(range(8))]
        losses.append(torch.stack([trainer.step(*batch, generator_for(number)) for number in range(2)]))
        keys = list(trainer.state_dict()["discriminator"])
    torch.testing.assert_close(*losses, atol=1e-4, rtol=1e-4)
    assert keys == list(trainer.discriminator.state_dict()) and keys[0] == "layer1.conv.0.weight"


def test_pictures_on_the_device_train_the_same(splits, tmp_path, monkeypatch):
    """To the bit, on a CPU that plays the GPU."""
    recipe, histories = tiny(WGAN_GP, epochs=1), []
    for room in (False, True):
        monkeypatch.setattr(training, "has_room_for", lambda count, _, room=room: room and count > 0)
        histories.append(run(recipe, splits, tmp_path / str(room)))
    for curve in set(training.CURVES) - {"seconds"}:
        assert histories[0][curve] == histories[1][curve]


def test_the_generators_step_leaves_no_gradients_in_the_discriminator(splits):
    trainer = Trainer(tiny(GAN_L1), splits, CPU)
    trainer.step(*splits.train[list(range(8))], generator_for(0))
    assert all(parameter.grad is None for parameter in trainer.discriminator.parameters())
    assert all(parameter.requires_grad for parameter in trainer.discriminator.parameters())


def test_frozen_puts_back_what_was_trainable_even_after_an_error(tiny_unet):
    tiny_unet.conv_last.bias.requires_grad_(False)
    with pytest.raises(RuntimeError), frozen(tiny_unet):
        assert not any(parameter.requires_grad for parameter in tiny_unet.parameters())
        raise RuntimeError
    trainable = {name for name, parameter in tiny_unet.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, _ in tiny_unet.named_parameters()} - {"conv_last.bias"}


# ---------------------------------------------------------------- runs


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_and_leaves_a_run_behind(splits, tmp_path, name):
    calls = []
    history = run(tiny(RECIPES[name]), splits, tmp_path, on_epoch=lambda epoch, h, g: calls.append((epoch, g.training)))
    assert set(history) == set(CURVES)
    without = ADVERSARY_CURVES if RECIPES[name].adversary == "none" else ()
    assert {curve: len(values) for curve, values in history.items()} == {
        curve: 0 if curve in without else 2 for curve in CURVES
    }
    assert calls == [(1, True), (2, True)]
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["best.safetensors", "history.json", "last.safetensors", "state.pt"]
    assert json.loads((tmp_path / "history.json").read_text()) == history
    loaded = load_generator(tmp_path / "best.safetensors")
    assert loaded.size == 32
    assert loaded.metadata["recipe"]["name"] == name
    best = min(range(2), key=lambda epoch: history["validation_loss"][epoch])
    assert loaded.metadata["epoch"] == best + 1
    assert loaded.metadata["metrics"]["psnr"] == history["psnr"][best]


@pytest.mark.slow
def test_a_network_learns_from_generated_flowers(tmp_path):
    """A minute's training beats the best constant chroma on pictures that it has not seen."""
    splits = load_splits("generated", 32, count=240, cache=None)
    recipe = tiny(GAN_L1, width=1 / 8, epochs=6, keep_luminance=True, learning_rate=2e-3)
    history = run(recipe, splits, tmp_path)
    assert history["generator_loss"][-1] < 0.7 * history["generator_loss"][0]

    from colorize_utils.inference import Colorizer

    colorizer = Colorizer.from_checkpoint(tmp_path / "best.safetensors", "cpu")
    predictors = {
        "gray": gray_baseline,
        "constant": mean_chroma_baseline(make_loader(splits.train, 32)),
        "learned": colorizer.predictor(),
    }
    scores = {score.name: score for score in scoreboard(predictors, make_loader(splits.test, 24))}
    assert scores["learned"].psnr > scores["constant"].psnr + 2
    assert scores["learned"].mae < 0.7 * scores["constant"].mae


def test_switches_reach_the_networks(splits):
    trainer = Trainer(tiny(GAN_L1, discriminator_sigmoid=False, bounded=True, keep_luminance=True), splits, CPU)
    assert not trainer.discriminator.sigmoid
    assert trainer.generator.bounded
    assert trainer.predictor.generator is trainer.generator
    assert Trainer(tiny(GAN_L1), splits, CPU).discriminator.sigmoid


def test_flips_are_used_where_the_recipe_says_so(splits, tmp_path):
    plain = run(tiny(GAN_L1, epochs=1), splits, tmp_path / "plain")
    flipped = run(tiny(GAN_L1, epochs=1, flip=True), splits, tmp_path / "flipped")
    assert plain["generator_loss"] != flipped["generator_loss"]


def test_decay_reaches_both_optimizers(splits, tmp_path):
    run(tiny(GAN_L1, epochs=4, decay=True), splits, tmp_path)
    state = state_of(tmp_path)
    for optimizer in ("optimizer_g", "optimizer_d"):
        assert state[optimizer]["param_groups"][0]["lr"] == pytest.approx(1e-4)  # the last epoch: half of 2e-4


def test_the_seed_decides_and_the_global_random_state_is_left_alone(splits, tmp_path):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first = run(tiny(GAN_L1, epochs=1), splits, tmp_path / "a", seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    again = run(tiny(GAN_L1, epochs=1), splits, tmp_path / "b", seed=1)
    other = run(tiny(GAN_L1, epochs=1), splits, tmp_path / "c", seed=2)
    assert first["generator_loss"] == again["generator_loss"] != other["generator_loss"]
    assert same(state_of(tmp_path / "a"), state_of(tmp_path / "b"))


# ---------------------------------------------------------------- resume

KILLED_RUN = textwrap.dedent("""
    import os
    import sys
    import torch
    from dataclasses import replace
    from colorize_utils.data import load_splits
    from colorize_utils.recipes import RECIPES
    from colorize_utils.training import Trainer, train

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    name, folder, save_minutes = sys.argv[1], sys.argv[2], float(sys.argv[3])
    splits = load_splits("generated", 32, count=40, cache=None)
    recipe = replace(RECIPES[name], size=32, width=1/16, batch_size=8, epochs=2, flip=True)
    if name == "wgan":
        recipe = replace(recipe, critic_batch_size=12)
    step = Trainer.step

    def counting(self, *arguments):
        if self.epoch == 1 and len(self.step_losses) == 2:
            print("in the middle of epoch 2", flush=True)
            sys.stdin.read()  # until killed
        return step(self, *arguments)

    Trainer.step = counting
    # In fp32, as the test's own process: `auto` depends on the machine.
    train(recipe, splits, folder, device="cpu", precision="fp32", progress=False, save_minutes=save_minutes)
""")


@pytest.mark.slow
@pytest.mark.parametrize(("save_minutes", "steps"), [(0.0, 2), (60.0, 0)])  # saved at each step, or with the first best
@pytest.mark.parametrize("name", ["gan-l1", "wgan", "distribution", "multiscale"])
def test_a_run_killed_in_the_middle_of_an_epoch_goes_on_as_if_it_never_stopped(
    splits, tmp_path, name, save_minutes, steps
):
    command = [sys.executable, "-c", KILLED_RUN, name, str(tmp_path / "killed"), str(save_minutes)]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # the bits depend on it
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout.readline() == "in the middle of epoch 2\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    stopped = torch.load(tmp_path / "killed" / "state.pt", weights_only=True)
    assert stopped["epoch"] == 1
    assert len(stopped["step_losses"]) == steps

    recipe = tiny(RECIPES[name], flip=True)
    resumed = run(recipe, splits, tmp_path / "killed", resume=True)
    straight = run(recipe, splits, tmp_path / "straight")
    for curve in set(CURVES) - {"seconds"}:
        assert resumed[curve] == straight[curve]
    assert same(state_of(tmp_path / "killed"), state_of(tmp_path / "straight"))


def best_of(folder):
    metadata = load_generator(folder / "best.safetensors").metadata
    return metadata["metrics"]["validation_loss"], metadata["epoch"]


def with_validation_losses(monkeypatch, *planned):
    planned = iter(planned)
    monkeypatch.setattr(training, "validate", lambda *_, **__: Validation(next(planned), 20.0, 0.5, 0.1))


def test_a_resumed_run_never_replaces_the_best_by_a_worse_one(splits, tmp_path, monkeypatch):
    """Be the state older than the best, and the learning rate another."""
    recipe = tiny(GAN_L1, epochs=6)
    with monkeypatch.context() as patched:
        spoil(patched, at=17, what="loss")  # four steps an epoch: in the fifth
        with_validation_losses(patched, 0.04, 0.03, 0.01, 0.02)
        with pytest.raises(Diverged) as error:
            run(recipe, splits, tmp_path, save_minutes=60)
    assert best_of(tmp_path) == (0.01, 3)
    for kept in ("state.pt (epoch 2, step 0)", "best.safetensors (epoch 3"):
        assert str(tmp_path / kept) in str(error.value)
    before = (tmp_path / "best.safetensors").read_bytes()
    with_validation_losses(monkeypatch, 0.05, 0.02, 0.03, 0.01, 0.05)
    history = run(replace(recipe, learning_rate=1e-6), splits, tmp_path, resume=True, save_minutes=60)
    assert history["validation_loss"] == [0.04, 0.05, 0.02, 0.03, 0.01, 0.05]
    assert (tmp_path / "best.safetensors").read_bytes() == before


@pytest.mark.parametrize("left_out", ["best.safetensors", "last.safetensors"])
def test_what_a_kill_between_two_files_left_out_is_made_up_for(splits, tmp_path, monkeypatch, left_out):
    """A killed process writes nothing more; here, it stops at the file that it would have written next."""
    save = checkpoints.save

    def pulled_plug(path, *arguments):
        if path.name == left_out:
            raise KeyboardInterrupt
        return save(path, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "save", pulled_plug)
        with_validation_losses(patched, 0.01)
        with pytest.raises(KeyboardInterrupt):
            run(tiny(GAN_L1), splits, tmp_path)
    assert (tmp_path / "state.pt").exists()
    assert not (tmp_path / left_out).exists()
    with_validation_losses(monkeypatch, 0.02)
    run(tiny(GAN_L1), splits, tmp_path, resume=True)
    assert best_of(tmp_path) == (0.01, 1)
    assert load_generator(tmp_path / "last.safetensors").metadata["epoch"] == 2


@pytest.mark.parametrize("checkpoint", ["best.safetensors", "last.safetensors"])
def test_a_checkpoint_without_a_state_is_not_overwritten(splits, tmp_path, checkpoint):
    run(tiny(GAN_L1, epochs=1), splits, tmp_path / "run")
    (tmp_path / "alone").mkdir()
    alone = (tmp_path / "run" / checkpoint).rename(tmp_path / "alone" / checkpoint)
    before = alone.read_bytes()
    with pytest.raises(TrainingError, match=rf"{checkpoint}.* no state.pt .* move it away, or choose another folder"):
        run(tiny(GAN_L1, epochs=1), splits, tmp_path / "alone", resume=True)
    assert alone.read_bytes() == before
    assert list((tmp_path / "alone").iterdir()) == [alone]


def test_a_best_that_cannot_be_read_is_not_overwritten(splits, tmp_path):
    run(tiny(GAN_L1, epochs=1), splits, tmp_path)
    (tmp_path / "best.safetensors").write_bytes(b"half of it")
    with pytest.raises(TrainingError, match=r"best.safetensors cannot be read .* move it away, then resume"):
        run(tiny(GAN_L1), splits, tmp_path, resume=True)
    assert (tmp_path / "best.safetensors").read_bytes() == b"half of it"


@pytest.mark.slow
def test_a_finished_run_can_be_given_more_epochs(splits, tmp_path):
    run(tiny(GAN_L1), splits, tmp_path / "more")
    longer = run(tiny(GAN_L1, epochs=3), splits, tmp_path / "more", resume=True)
    straight = run(tiny(GAN_L1, epochs=3), splits, tmp_path / "straight")
    assert longer["psnr"] == straight["psnr"]
    assert len(longer["psnr"]) == 3


def test_resume_of_nothing_is_a_start(splits, tmp_path):
    assert len(run(tiny(GAN_L1, epochs=1), splits, tmp_path / "new", resume=True)["psnr"]) == 1


def test_a_run_is_not_overwritten_nor_mixed_with_another(splits, tmp_path):
    run(tiny(GAN_L1, epochs=1), splits, tmp_path)
    with pytest.raises(TrainingError, match=r"holds a run already: resume it .* or choose another folder"):
        run(tiny(GAN_L1, epochs=1), splits, tmp_path)
    with pytest.raises(TrainingError, match=r"another run \(name was 'gan-l1', is 'gan-mse', reconstruction"):
        run(tiny(GAN_MSE, epochs=1), splits, tmp_path, resume=True)
    with pytest.raises(TrainingError, match=r"another run \(seed was 0, is 7\)"):
        run(tiny(GAN_L1, epochs=1), splits, tmp_path, resume=True, seed=7)
    others = load_splits("generated", 32, count=60, cache=None)
    with pytest.raises(TrainingError, match=r"another run \(pictures was"):
        run(tiny(GAN_L1, epochs=1), others, tmp_path, resume=True)
    with pytest.raises(TrainingError, match=r"another run \(pictures was"):
        run(tiny(GAN_L1, epochs=1), replace(splits, crop=True), tmp_path, resume=True)
    (tmp_path / "state.pt").unlink()
    with pytest.raises(TrainingError, match="holds a run already"):  # its best checkpoint would be lost
        run(tiny(GAN_L1, epochs=1), splits, tmp_path)


def test_with_decay_the_number_of_epochs_is_fixed(splits, tmp_path):
    run(tiny(GAN_L1, epochs=1, decay=True), splits, tmp_path)
    with pytest.raises(TrainingError, match=r"another run \(epochs was 1, is 2\)"):
        run(tiny(GAN_L1, epochs=2, decay=True), splits, tmp_path, resume=True)


@pytest.mark.parametrize("kind", ["no state", "a pickled module", "a dict of other things"])
def test_a_state_that_cannot_be_read_is_told(splits, tmp_path, tiny_unet, kind):
    if kind == "no state":
        (tmp_path / "state.pt").write_bytes(b"PK\x03\x04 no state")
    else:
        torch.save(tiny_unet if kind == "a pickled module" else {"epoch": 3}, tmp_path / "state.pt")
    with pytest.raises(TrainingError, match=r"state.pt cannot be read .* start in another folder") as error:
        run(tiny(GAN_L1), splits, tmp_path, resume=True)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- interrupts


def signalled(monkeypatch, at, *signals):
    """Sends this process signals in the middle of the run's step number `at`."""
    step, count = Trainer.step, [0]

    def interrupted(self, *arguments):
        count[0] += 1
        if count[0] == at:
            for number in signals:
                signal.raise_signal(number)
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "step", interrupted)


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def number(request):
    """A signal, with a handler of somebody else's, which is there again afterwards."""

    def elsewhere(number, _):
        raise InterruptedError(number)

    before = signal.signal(request.param, elsewhere)
    yield request.param
    assert signal.signal(request.param, before) is elsewhere


def test_an_interrupt_ends_the_step_and_saves_everything(splits, tmp_path, monkeypatch, number):
    recipe = tiny(GAN_L1)
    with monkeypatch.context() as patched:
        signalled(patched, 6, number)  # four steps an epoch
        with pytest.raises(Interrupted) as stop:
            run(recipe, splits, tmp_path / "stopped", save_minutes=60)
    for part in (str(tmp_path / "stopped" / "state.pt"), str(tmp_path / "stopped" / "best.safetensors"), "--resume"):
        assert part in str(stop.value)
    stopped = torch.load(tmp_path / "stopped" / "state.pt", weights_only=True)
    assert (stopped["epoch"], len(stopped["step_losses"])) == (1, 2)
    run(recipe, splits, tmp_path / "stopped", resume=True)
    run(recipe, splits, tmp_path / "straight")
    assert same(state_of(tmp_path / "stopped"), state_of(tmp_path / "straight"))


def test_in_a_notebook_an_interrupt_is_one_line(splits, tmp_path, monkeypatch, number):
    signalled(monkeypatch, 2, number)
    shell, shown = InteractiveShell(), []
    monkeypatch.setattr(shell, "_showtraceback", lambda kind, error, lines: shown.extend(lines))
    with pytest.raises(Interrupted) as stop:
        run(tiny(GAN_L1), splits, tmp_path)
    shell.showtraceback((stop.type, stop.value, stop.tb))
    (line,) = shown
    assert str(tmp_path / "state.pt") in line
    assert "\n" not in line


def test_a_second_interrupt_acts_at_once(splits, tmp_path, monkeypatch, number):
    signalled(monkeypatch, 2, number, number)
    with pytest.raises(InterruptedError):
        run(tiny(GAN_L1), splits, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_interrupt_while_an_epoch_is_watched_is_not_forgotten(splits, tmp_path, number):
    with pytest.raises(Interrupted):
        run(tiny(GAN_L1), splits, tmp_path, save_minutes=60, on_epoch=lambda *_: signal.raise_signal(number))
    stopped = torch.load(tmp_path / "state.pt", weights_only=True)
    assert (stopped["epoch"], len(stopped["step_losses"])) == (1, 0)


def test_outside_the_main_thread_no_handler_is_set(splits, tmp_path, number):
    before, seen = signal.getsignal(number), []

    def watch(*_):
        seen.append(signal.getsignal(number))

    with ThreadPoolExecutor(1) as pool:
        history = pool.submit(run, tiny(GAN_L1), splits, tmp_path, on_epoch=watch).result()
    assert len(history["psnr"]) == 2
    assert seen == [before, before]


def test_a_signal_that_is_ignored_stays_ignored(splits, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
    try:
        signalled(monkeypatch, 2, signal.SIGINT)
        assert len(run(tiny(GAN_L1, epochs=1), splits, tmp_path)["psnr"]) == 1
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# ---------------------------------------------------------------- the machine


def test_a_resumed_run_keeps_its_precision(splits, tmp_path):
    recipe = tiny(GAN_L1)
    run(replace(recipe, epochs=1), splits, tmp_path / "stopped", precision="bf16")
    run(recipe, splits, tmp_path / "stopped", resume=True)
    run(recipe, splits, tmp_path / "straight", precision="bf16")
    stopped, straight = (state_of(tmp_path / name) for name in ("stopped", "straight"))
    assert stopped["machine"]["precision"] == "bf16"
    assert same(stopped, straight)
    run(replace(recipe, epochs=3), splits, tmp_path / "stopped", resume=True, precision="fp32")
    assert state_of(tmp_path / "stopped")["machine"]["precision"] == "fp32"


@pytest.mark.slow
def test_another_number_of_threads_is_warned_of(splits, tmp_path, recwarn):
    threads = torch.get_num_threads()
    run(tiny(GAN_L1, epochs=1), splits, tmp_path)
    run(tiny(GAN_L1, epochs=2), splits, tmp_path, resume=True)
    assert not [warning for warning in recwarn if "threads" in str(warning.message)]
    torch.set_num_threads(threads + 1)
    try:
        with pytest.warns(UserWarning, match=f"saved with {threads} threads and goes on with {threads + 1}"):
            run(tiny(GAN_L1, epochs=3), splits, tmp_path, resume=True)
    finally:
        torch.set_num_threads(threads)


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("trouble", ["a full disk", "no memory", "a watcher that cannot save", "divergence"])
def test_every_failure_names_the_state_and_the_best(splits, tmp_path, monkeypatch, trouble):
    def fail(error):
        def failing(*_, **__):
            raise error

        return failing

    def after_two(epoch, *_):
        if epoch < 2:
            return
        if trouble == "a full disk":
            monkeypatch.setattr(checkpoints.state, "save_file", fail(SafetensorError("No space left on device")))
        elif trouble == "no memory":
            monkeypatch.setattr(UNet, "forward", fail(MemoryError()))
        elif trouble == "divergence":
            spoil(monkeypatch, at=1, what="loss")
        else:
            raise TrainingError("cannot save snapshots.npz")

    with_validation_losses(monkeypatch, 0.02, 0.03, 0.04)
    with pytest.raises(TrainingError) as error:
        run(tiny(GAN_L1, epochs=3), splits, tmp_path, save_minutes=60, on_epoch=after_two)
    for kept in ("state.pt (epoch 2, step 0)", "best.safetensors (epoch 1, validation loss 0.02)"):
        assert str(tmp_path / kept) in str(error.value)
    assert "\n" not in str(error.value)


def spoil(monkeypatch, at, what):
    """Makes the generator's loss, or its weights, NaN from the step number `at` of the run on."""
    step, count = Trainer.step, [0]

    def spoiled(self, *arguments):
        reported = step(self, *arguments)
        count[0] += 1
        if count[0] >= at:
            if what == "loss":
                reported[1] = float("nan")
            else:
                with torch.no_grad():
                    self.generator.conv_last.bias.fill_(float("inf"))
        return reported

    monkeypatch.setattr(Trainer, "step", spoiled)


def test_a_loss_that_turns_nan_stops_the_run_and_names_where(splits, tmp_path, monkeypatch):
    spoil(monkeypatch, at=7, what="loss")  # four steps an epoch
    with pytest.raises(
        Diverged,
        match=r"generator_loss became NaN or infinite in epoch 2, step 3; last good .*state.pt .epoch 2, step 2.",
    ):
        run(tiny(GAN_L1, epochs=4), splits, tmp_path, save_minutes=1e-9)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["epoch"] == 1
    assert all(row.isfinite().all() for row in state["step_losses"])


def test_weights_that_turn_infinite_are_never_saved(splits, tmp_path, monkeypatch):
    spoil(monkeypatch, at=4, what="weights")
    with pytest.raises(
        Diverged, match=r"generator's weights became NaN or infinite in epoch 1.*good checkpoint: none yet"
    ):
        run(tiny(GAN_L1), splits, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_validation_loss_that_is_not_finite_stops_the_run(splits, tmp_path, monkeypatch):
    nan = float("nan")
    monkeypatch.setattr(training, "validate", lambda *_, **__: Validation(nan, 1.0, 1.0, 1.0))
    with pytest.raises(Diverged, match=r"validation loss became NaN or infinite after epoch 1; last good .* none yet"):
        run(tiny(GAN_L1), splits, tmp_path)


def test_pictures_of_another_size_are_told(splits, tmp_path):
    with pytest.raises(TrainingError, match="the pictures are 32×32, the recipe is for 64×64"):
        run(tiny(GAN_L1, size=64), splits, tmp_path)


def test_the_advice_after_a_divergence_can_be_followed(splits, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        spoil(patched, at=7, what="loss")
        with pytest.raises(Diverged, match="lower the learning rate or train in fp32, then resume"):
            run(tiny(GAN_L1), splits, tmp_path, save_minutes=1e-9)
    history = run(tiny(GAN_L1, learning_rate=1e-5), splits, tmp_path, resume=True, precision="fp32")
    assert len(history["psnr"]) == 2
    assert state_of(tmp_path)["optimizer_g"]["param_groups"][0]["lr"] == 1e-5


@pytest.mark.parametrize("broken", ["save_file", "torch.save"])
def test_a_full_disk_is_told(splits, tmp_path, monkeypatch, broken):
    def full(*_, **__):
        if broken == "save_file":
            raise SafetensorError("Error while serializing: I/O error: No space left on device")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    target = checkpoints.state if broken == "save_file" else torch
    monkeypatch.setattr(target, broken.removeprefix("torch."), full)
    with pytest.raises(
        TrainingError, match=r"cannot save the run in .*: free some space, then resume; last good .*none"
    ):
        run(tiny(GAN_L1, epochs=1), splits, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_memory_that_runs_out_while_the_networks_are_built_is_told_too(splits, tmp_path, monkeypatch):
    def exhausted(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(training, "Discriminator", exhausted)
    with pytest.raises(TrainingError, match="out of memory on cpu"):
        run(tiny(GAN_L1), splits, tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_out_of_memory_gives_advice(splits, tmp_path, monkeypatch, error):
    def exhausted(*_):
        raise error

    monkeypatch.setattr(UNet, "forward", exhausted)
    with pytest.raises(
        TrainingError,
        match=r"out of memory on cpu at batch size 8, 32×32, .*: start another run at half the batch size",
    ):
        run(tiny(GAN_L1), splits, tmp_path)


def test_other_errors_are_not_dressed_up(splits, tmp_path, monkeypatch):
    monkeypatch.setattr(losses, "adversarial_loss", lambda _: 1 / 0)  # before the trainer picks its losses
    with pytest.raises(ZeroDivisionError):
        run(tiny(GAN_L1), splits, tmp_path)


# ---------------------------------------------------------------- device and precision


def test_device_and_precision_are_chosen_by_what_is_there(monkeypatch):
    assert choose_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device() == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device() == torch.device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device() == CPU

    for there, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(devices, "has_bf16", lambda t=there: t)
        assert choose_precision(CPU, has_discriminator=True) == expected
        assert choose_precision(CPU) == choose_precision(torch.device("mps"), has_discriminator=True) == "fp32"
    for capability, expected in (((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        assert choose_precision(torch.device("cuda")) == expected
    for device in ("cuda:99", "nonsense"):
        with pytest.raises(DeviceError, match=f"no device '{device}' here; leave it out, or take cpu"):
            choose_device(device)
    with pytest.raises(ValueError, match="precision must be one of"):
        Precision(CPU, "int4")


def test_a_step_that_fp16_scaling_leaves_out_changes_nothing_but_the_scale():
    precision = Precision(CPU, "fp16")
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    precision.backward((weight * float("inf")).sum(), "generator")
    scale = precision.scaler("generator").get_scale()
    precision.step(optimizer, "generator")
    assert weight.item() == 1
    assert precision.scaler("generator").get_scale() == scale / 2
    precision.backward(weight.sum(), "generator")
    precision.step(optimizer, "generator")
    assert weight.item() == 0

    again = Precision(CPU, "fp16")
    again.load_state_dict(precision.state_dict())
    assert again.scaler("generator").get_scale() == scale / 2


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_run_beside_a_discriminator_takes_the_cpus_bf16(splits, monkeypatch, name):
    monkeypatch.setattr(devices, "has_bf16", lambda: True)
    expected = "bf16" if RECIPES[name].adversary == "discriminator" else "fp32"
    assert Trainer(tiny(RECIPES[name]), splits, CPU).precision.name == expected


@pytest.mark.parametrize("name", ["gan-l1", "wgan"])
def test_mixed_precision_trains_close_to_fp32(splits, tmp_path, name):
    recipe = tiny(RECIPES[name], epochs=1)
    full = run(recipe, splits, tmp_path / "fp32", precision="fp32")
    mixed = run(recipe, splits, tmp_path / "bf16", precision="bf16")
    assert mixed["reconstruction_loss"] == pytest.approx(full["reconstruction_loss"], rel=0.05)
    assert mixed["reconstruction_loss"] != full["reconstruction_loss"]


class Device(TorchDispatchMode):
    """The CPU in the part of a device: numbers on it do not become float64, which Apple's GPUs have not, unless
    `Tensor.cpu` took them away; and `fetched` counts those that Python asked for, each of which waits for a GPU."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.fetched, self.on_host = 0, []
        monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: self.take_away(tensor))

    def take_away(self, tensor):
        self.on_host.append(tensor.clone())
        return self.on_host[-1]

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.fetched += function is torch.ops.aten._local_scalar_dense.default
        result = function(*args, **(kwargs or {}))
        given, made = (
            [leaf for leaf in tree_leaves(some) if isinstance(leaf, torch.Tensor)] for some in ((args, kwargs), result)
        )
        host = {id(tensor) for tensor in self.on_host}
        narrow = [tensor for tensor in given if tensor.dtype != torch.double and id(tensor) not in host]
        if narrow and any(tensor.dtype == torch.double for tensor in made):
            raise TypeError(f"this device has no float64 ({function})")
        return result


@pytest.mark.parametrize("name", RECIPES)
def test_an_epoch_needs_no_float64_of_the_device(splits, tmp_path, monkeypatch, name):
    recipe = tiny(RECIPES[name], epochs=1, augment=True, flip=True, ema_decay=0.9)
    with Device(monkeypatch):
        history = run(recipe, splits, tmp_path)
    assert len(history["psnr"]) == recipe.epochs


def test_a_device_without_float64_refuses_it(monkeypatch):
    numbers = torch.ones(3)
    with Device(monkeypatch):
        assert numbers.cpu().double().mean() == 1
        with pytest.raises(TypeError, match="no float64"):
            numbers.double()
        with pytest.raises(TypeError, match="no float64"):
            torch.stack([numbers, numbers]).to(torch.float64)


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_waits_for_nothing_and_a_look_at_its_numbers_once(splits, tmp_path, monkeypatch, name):
    """A step starts its work on a GPU and goes on; whether all is finite is one question, however many weights."""
    waits = {}
    with Device(monkeypatch) as device:

        def counted(method):
            original = getattr(Trainer, method)

            def wrapper(*arguments):
                before = device.fetched
                result = original(*arguments)
                waits.setdefault(method, []).append(device.fetched - before)
                return result

            monkeypatch.setattr(Trainer, method, wrapper)

        counted("step")
        counted("require_finite")
        run(tiny(RECIPES[name], epochs=1, ema_decay=0.9), splits, tmp_path)
    assert set(waits["step"]) == {0}
    assert max(waits["require_finite"]) == 1


def test_the_random_state_of_apples_gpu_is_put_back(splits, tmp_path, monkeypatch):
    put_back = []
    monkeypatch.setattr(training, "choose_device", torch.device)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda *_: torch.tensor([7]))
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state, *_: put_back.append(state.item()))
    monkeypatch.setattr(training, "Trainer", lambda *_: 1 / 0)  # there is no such GPU here
    with pytest.raises(ZeroDivisionError):
        train(tiny(GAN_L1), splits, tmp_path, device="mps")
    assert put_back == [7]


# ---------------------------------------------------------------- beyond the submission


def test_without_an_adversary_a_step_is_plain_descent(splits):
    recipe = tiny(DISTRIBUTION, dropout=0.0)
    torch.manual_seed(0)
    ours = Trainer(recipe, splits, CPU)
    torch.manual_seed(0)
    theirs = build_generator("distribution-unet", recipe.width)
    assert same(ours.generator.state_dict(), theirs.state_dict())
    assert ours.discriminator is None
    adam = torch.optim.Adam(theirs.parameters(), lr=recipe.learning_rate, betas=recipe.betas)
    real, gray = splits.train[list(range(8))]
    for _ in range(2):
        reported = ours.step(real, gray, generator_for(0))
        logits = theirs(gray)
        fake = MeanColour.colour(gray, logits)
        rebuilt = (fake - real).abs().mean()
        loss = 10 * rebuilt + distribution_loss(logits, real)
        adam.zero_grad()
        loss.backward()
        adam.step()
        mse = (fake - real).square().mean()
        expected = torch.stack([torch.zeros(()), loss, rebuilt, torch.zeros(()), mse]).detach()
        torch.testing.assert_close(reported, expected)
    for parameter, reference in zip(ours.generator.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter, reference, atol=2e-6, rtol=1e-4)


def test_without_an_adversary_there_are_no_curves_of_one(splits, tmp_path):
    recipe = tiny(DISTRIBUTION, epochs=2)
    history = run(recipe, splits, tmp_path)
    assert {curve for curve, values in history.items() if not values} == set(ADVERSARY_CURVES)
    assert {len(values) for curve, values in history.items() if curve not in ADVERSARY_CURVES} == {2}
    kept = load_generator(tmp_path / "best.safetensors").metadata["metrics"]
    assert set(kept) == set(CURVES) - set(ADVERSARY_CURVES)


def test_what_is_kept_is_the_moving_average(splits, tmp_path):
    """After each step d·average + (1 − d)·weights, where d is at most the recipe's and begins lower."""
    trainer = Trainer(tiny(DISTRIBUTION, ema_decay=0.2), splits, CPU)
    real, gray = splits.train[list(range(8))]
    expected = None
    for step in range(3):
        trainer.step(real, gray, generator_for(step))
        weights = trainer.generator.head.weight.detach().clone()
        decay = (0.0, 2 / 11, 0.2)[step]
        expected = weights if expected is None else decay * expected + (1 - decay) * weights
        torch.testing.assert_close(trainer.kept.head.weight, expected)
    seen = []
    history = run(tiny(DISTRIBUTION, ema_decay=0.5), splits, tmp_path, on_epoch=lambda *now: seen.append(now[2]))
    state = state_of(tmp_path)
    saved = load_file(tmp_path / "last.safetensors")
    assert not torch.equal(saved["head.weight"], state["generator"]["head.weight"])
    averaged = {key.removeprefix("module."): value for key, value in state["ema"].items() if key != "n_averaged"}
    assert same(saved, averaged)
    assert not torch.equal(saved["encoder1.conv.1.running_mean"], state["generator"]["encoder1.conv.1.running_mean"])
    assert same(seen[-1].generator.state_dict(), saved)
    kept = load_generator(tmp_path / "last.safetensors").predictor
    validated = validate(kept, torch.nn.MSELoss(), make_loader(splits.val, TINY["batch_size"]))
    assert history["psnr"][-1] == pytest.approx(validated.psnr, abs=1e-3)


@pytest.mark.slow
def test_a_short_run_keeps_what_it_learned(tmp_path):
    """The first weights, which know nothing, do not stay in the average for long."""
    flowers = load_splits("generated", 32, count=100, cache=None)
    short = tiny(DISTRIBUTION, width=1 / 8, epochs=5, ema_decay=0.999)
    averaged = run(short, flowers, tmp_path / "averaged")
    plain = run(replace(short, ema_decay=0.0), flowers, tmp_path / "plain")
    assert averaged["psnr"][-1] > plain["psnr"][-1] - 1.5


def test_what_somebody_else_draws_changes_nothing(splits, tmp_path):
    """Dropout's numbers follow from the step, too."""
    plain = run(tiny(DISTRIBUTION), splits, tmp_path / "plain")
    disturbed = run(tiny(DISTRIBUTION), splits, tmp_path / "disturbed", on_epoch=lambda *_: torch.rand(1))
    assert plain["generator_loss"] == disturbed["generator_loss"]


def test_augmented_pictures_are_used_where_the_recipe_says_so(splits, tmp_path):
    plain = run(tiny(GAN_L1, epochs=1), splits, tmp_path / "plain")
    other = run(tiny(GAN_L1, epochs=1, augment=True), splits, tmp_path / "augmented")
    assert plain["generator_loss"] != other["generator_loss"]


def test_old_prints_are_learned_from_where_the_recipe_says_so(splits, monkeypatch):
    monkeypatch.setattr(degradation, "OLD", 0.5)
    monkeypatch.setattr(degradation, "BORDERED", 0.0)
    indices = list(range(24))
    plain = Trainer(tiny(DISTRIBUTION, augment=False, flip=False), splits, CPU).training_batch(
        indices, generator_for(0)
    )
    recipe = tiny(DISTRIBUTION, augment=False, flip=False, degrade=True)
    real, gray = Trainer(recipe, splits, CPU).training_batch(indices, generator_for(0))
    assert torch.equal(real, plain[0])
    changed = (gray != plain[1]).flatten(1).any(dim=1)
    assert 4 <= changed.sum() <= 20


def test_hints_come_with_the_working_sizes_and_reach_the_network(splits, tmp_path, monkeypatch):
    seen, step = {}, Trainer.step

    def stepped(self, real, gray, rng, hints=None):
        seen.setdefault(self.epoch, []).append(hints)
        return step(self, real, gray, rng, hints)

    monkeypatch.setattr(Trainer, "step", stepped)
    recipe = tiny(MULTISCALE, size=32, epochs=4)
    run(recipe, splits, tmp_path / "hinted")
    assert [recipe.is_small_in(epoch) for epoch in range(4)] == [True, True, False, False]
    assert all(hints is None for epoch in (0, 1) for hints in seen[epoch])
    assert all(hints.shape[1] == 3 and hints[:, 2].any() for epoch in (2, 3) for hints in seen[epoch])
    seen.clear()
    run(replace(recipe, hints=False), splits, tmp_path / "plain")
    assert all(hints is None for epoch in seen.values() for hints in epoch)


def test_a_step_learns_from_hints(splits):
    def weights(hints):
        torch.manual_seed(0)
        trainer = Trainer(tiny(MULTISCALE, dropout=0.0), splits, CPU)
        trainer.step(*splits.train[list(range(8))], generator_for(0), hints)
        return trainer.generator.state_dict()

    assert not same(weights(torch.full((8, 3, 32, 32), 0.2)), weights(None))


def test_a_run_starts_from_a_checkpoint_and_says_so(splits, tmp_path):
    recipe = tiny(MULTISCALE, epochs=1)
    run(recipe, splits, tmp_path / "first")
    first = tmp_path / "first/best.safetensors"
    trainer = Trainer(recipe, splits, CPU, seed=1)
    trainer.start_from(first)
    expected = load_file(first)
    for network in (trainer.generator, trainer.kept):
        assert same(dict(network.state_dict()), expected)
    run(recipe, splits, tmp_path / "second", start_from=first)
    started = load_generator(tmp_path / "second/best.safetensors").metadata["started_from"]
    assert started.startswith("best.safetensors (") and load_generator(first).metadata["started_from"] == ""
    run(replace(recipe, decay=False, epochs=1), splits, tmp_path / "third", start_from=first)
    run(replace(recipe, decay=False, epochs=2), splits, tmp_path / "third", start_from=first, resume=True)
    assert load_generator(tmp_path / "third/last.safetensors").metadata["started_from"] == started
    assert len(json.loads((tmp_path / "third/history.json").read_text())["psnr"]) == 2


def test_input_channels_that_a_checkpoint_has_not_keep_their_random_weights(splits, tmp_path):
    recipe = tiny(MULTISCALE)
    state = Trainer(recipe, splits, CPU).generator.state_dict()
    old = {key: value[:, :4] if key == "fine_encoder.conv.0.weight" else value for key, value in state.items()}
    torch.save(old, tmp_path / "old.pt")
    torch.manual_seed(7)
    trainer = Trainer(recipe, splits, CPU)
    before = trainer.generator.fine_encoder.conv[0].weight.clone()
    trainer.start_from(tmp_path / "old.pt")
    after = trainer.generator.fine_encoder.conv[0].weight
    assert torch.equal(after[:, :4], old["fine_encoder.conv.0.weight"])
    assert torch.equal(after[:, 4:], before[:, 4:])


def test_a_checkpoint_that_does_not_fit_starts_nothing(splits, tmp_path, tiny_checkpoint):
    for recipe in (tiny(MULTISCALE), tiny(GAN_L1, width=1 / 8)):
        with pytest.raises(CheckpointError, match=f"tiny.safetensors does not fit {recipe.name}"):
            run(recipe, splits, tmp_path / "run", start_from=tiny_checkpoint)
    assert not (tmp_path / "run/state.pt").exists()


def test_runs_of_a_version_that_had_other_names_go_on(splits, tmp_path):
    recipe = tiny(DISTRIBUTION, ema_decay=0.5)
    run(recipe, splits, tmp_path / "run", on_epoch=None)
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    state["recipe"]["average"] = state["recipe"].pop("ema_decay")
    state["average"] = state.pop("ema")
    torch.save(state, tmp_path / "run" / "state.pt")
    assert run(recipe, splits, tmp_path / "run", resume=True) == state["history"]


def test_runs_of_a_version_that_knew_fewer_settings_go_on(splits, tmp_path):
    run(tiny(GAN_L1), splits, tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    for added in ("augment", "dropout", "ema_decay"):
        del state["recipe"][added]
    state["recipe"] |= {"critic_batch_size": 8, "n_critic": 3}  # which had no effect, and was accepted
    torch.save(state, tmp_path / "state.pt")
    assert len(run(tiny(GAN_L1, epochs=3), splits, tmp_path, resume=True)["psnr"]) == 3


def test_a_moving_average_averages_no_whole_numbers():
    """The mean of 192 and 192 in floating point may be 191.99…, and a network's sizes would shrink."""
    network = MultiscaleUNet(1 / 32, sizes=(128, 192))
    average = MovingAverage(network, 0.999)
    for _ in range(50):
        with torch.no_grad():
            network.strange_bias += 1
        average.update(network)
    assert average.module.state_dict()["sizes"].tolist() == [128, 192]
    assert 1 < average.module.strange_bias < 50
