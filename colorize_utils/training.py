"""One training loop for every recipe: `train` runs it, `Trainer.step` is the algorithm.

A run lives in a folder, which may be on a mounted Drive:

    state.pt           everything needed to go on: networks, optimizers, epoch, step, curves, random state
    best.safetensors   the generator of the epoch with the lowest validation loss
    last.safetensors   the generator of the latest save
    history.json       the curves

Every random choice follows from (seed, epoch, step), so that a run that was killed and resumed ends in the same
weights, to the bit on the CPU, as one that never stopped.
"""

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm.auto import tqdm

from colorize_utils import checkpoints, losses
from colorize_utils.data import EpochBatches, Splits, generator_for, make_loader
from colorize_utils.data.augmentation import augmented, flip_some
from colorize_utils.devices import (
    Precision,
    choose_device,
    frozen,
    has_room_for,
    is_out_of_memory,
    keep_freed_memory,
)
from colorize_utils.errors import TrainingError
from colorize_utils.files import atomic_write
from colorize_utils.metrics import Validation, validate
from colorize_utils.models import Critic, Discriminator, MeanColour, build_generator, predictor
from colorize_utils.recipes import Recipe

STEP_LOSSES = ("discriminator_loss", "generator_loss", "reconstruction_loss", "adversarial_loss", "mse")
CURVES = (*STEP_LOSSES, "validation_loss", "psnr", "ssim", "mae", "seconds")
ADVERSARY_CURVES = ("discriminator_loss", "adversarial_loss")  # empty where a recipe has no adversary
CHECK_EVERY = 20  # steps between two looks at whether the losses are finite: each look waits for a GPU

_RENAMED = {"average": "ema"}  # in states that earlier versions wrote

History = dict[str, list[float]]
"""One list a curve, one number an epoch: the names in `CURVES`. For a critic, `discriminator_loss` is its loss with
the penalty, and `adversarial_loss` −mean D(fake)."""


class MovingAverage:
    """A copy of a network, `module`, whose weights and buffers are averages: d · average + (1 − d) · latest.

    d is at most `decay` and begins low, lest the first steps' weights stay. As `torch.optim.swa_utils.AveragedModel`,
    whose states it reads and writes; but that keeps the number of updates in a tensor, which has to travel between
    device and host at each of them.
    """

    def __init__(self, network: nn.Module, decay: float):
        self.module, self.decay, self.updates = copy.deepcopy(network), decay, 0

    def update(self, network: nn.Module) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.updates else 0.0
        kept, latest = self.module.state_dict(), network.state_dict()
        for floating in (True, False):  # batch norms also count their batches, in whole numbers
            keys = [key for key, value in kept.items() if value.is_floating_point() == floating]
            if keys:
                get_ema_multi_avg_fn(decay)([kept[key] for key in keys], [latest[key] for key in keys], self.updates)
        self.updates += 1

    def state_dict(self) -> dict[str, Tensor]:
        weights = {f"module.{key}": value for key, value in self.module.state_dict().items()}
        return {"n_averaged": torch.tensor(self.updates), **weights}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.updates = int(state["n_averaged"])
        weights = {key: value for key, value in state.items() if key != "n_averaged"}
        self.module.load_state_dict({key.removeprefix("module."): value for key, value in weights.items()})


class Trainer:
    """The networks, optimizers and position of a run. `step` is one turn of the algorithm, `run_epoch` one epoch."""

    def __init__(
        self,
        recipe: Recipe,
        splits: Splits,
        device: torch.device,
        precision: str = "auto",
        seed: int = 0,
        compiled: bool = False,
    ):
        self.recipe, self.splits, self.device, self.seed = recipe, splits, device, seed
        self.precision = Precision(device, precision)
        self.generator = build_generator(recipe.generator, recipe.width, recipe.bounded, recipe.dropout).to(device)
        self.predictor = predictor(self.generator, recipe.keep_luminance)
        self.discriminator: nn.Module | None = None
        if recipe.adversary == "critic":
            self.discriminator = Critic(recipe.width).to(device)
            self.discriminator_loss, self.adversarial_loss = losses.critic_loss, losses.wasserstein_loss
        elif recipe.adversary == "discriminator":
            self.discriminator = Discriminator(recipe.width, recipe.discriminator_sigmoid).to(device)
            self.discriminator_loss, self.adversarial_loss = losses.discriminator_loss, losses.adversarial_loss
        self.reconstruction_loss = losses.RECONSTRUCTION[recipe.reconstruction]
        self.networks = {"generator": self.generator}
        if self.discriminator is not None:
            self.networks["discriminator"] = self.discriminator
        for network in self.networks.values():
            if device.type == "cuda":  # the layout of its tensor cores; on a CPU, training in it is no faster
                network.to(memory_format=torch.channels_last)
            if compiled:
                network.compile()
        self.ema = MovingAverage(self.generator, recipe.ema_decay) if recipe.ema_decay else None
        self.kept_predictor = predictor(self.kept, recipe.keep_luminance)
        # Pictures that a critic takes at a time: a batch of the original's networks at their size, more of smaller
        # ones, where 64 at once made a step 24 to 60 % shorter than 8 by 8 (64×64 and 32×32, two CPU cores).
        micro_batch = recipe.batch_size * (256 / recipe.size) ** 2 / recipe.width
        self.micro_batch = max(recipe.batch_size, int(micro_batch))
        adam = {"lr": recipe.learning_rate, "betas": recipe.betas, "fused": device.type in ("cpu", "cuda")}
        self.optimizer_g = Adam(self.generator.parameters(), **adam)
        self.optimizer_d = None if self.discriminator is None else Adam(self.discriminator.parameters(), **adam)
        self.optimizers = [self.optimizer_g] if self.optimizer_d is None else [self.optimizer_g, self.optimizer_d]

        self.pictures = _digest(splits)
        self.history: History = {curve: [] for curve in CURVES}
        self.epoch = 0  # epochs that are complete
        self.step_losses: list[Tensor] = []  # of the epoch under way, each (5,), in the order of STEP_LOSSES
        self.epoch_seconds = 0.0

    # ------------------------------------------------------------ the algorithm

    def step(self, real: Tensor, gray: Tensor, rng: torch.Generator) -> Tensor:
        """One turn: discriminator (or critic) first, then generator. Returns the five `STEP_LOSSES`, detached.

        real (B, 3, H, W) and gray (B, 1, H, W) in [0, 1], on the trainer's device.
        """
        recipe = self.recipe
        fake, logits = self.generate(gray)  # (B, 3, H, W); the generator does not change until its own step
        d_loss = adversarial = torch.zeros((), device=self.device)  # of a recipe without an adversary
        for real_batch, fake_batch in self.adversary_batches(real, fake, rng):
            d_loss = self.update_discriminator(real_batch, fake_batch, rng)

        with frozen(self.discriminator), self.precision.autocast():
            if self.discriminator is not None:
                adversarial = self.adversarial_loss(self.discriminator(fake).float())
            reconstruction = self.reconstruction_loss(fake, real)
            g_loss = recipe.lambda_adv * adversarial + recipe.lambda_rec * reconstruction
            if logits is not None:
                g_loss = g_loss + recipe.lambda_dist * losses.distribution_loss(logits, real)
            self.precision.backward(g_loss, "generator")
        self.precision.step(self.optimizer_g, "generator")
        if self.ema is not None:
            self.ema.update(self.generator)

        squared_error = losses.RECONSTRUCTION["mse"](fake.detach(), real)
        return torch.stack([d_loss, g_loss.detach(), reconstruction.detach(), adversarial.detach(), squared_error])

    def generate(self, gray: Tensor) -> tuple[Tensor, Tensor | None]:
        """Generated pictures (B, 3, H, W), and the generator's distribution over colours where it predicts one."""
        with self.precision.autocast():
            if not isinstance(self.predictor, MeanColour):
                return self.predictor(gray).float(), None
            logits = self.generator(gray).float()
            return self.predictor.colour(gray, logits), logits

    def training_batch(self, indices: Sequence[int], rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Training pictures for either network, real (B, 3, H, W) and gray (B, 1, H, W), on the trainer's device:
        mirrored and augmented where the recipe says so."""
        real, gray = self.splits.train[indices]
        if self.recipe.flip:
            real, gray = flip_some(real, gray, rng)
        if self.recipe.augment:  # where the pictures are: not every device can do it
            real, gray = augmented(real, rng)
        return real.to(self.device), gray.to(self.device)

    def adversary_batches(self, real: Tensor, fake: Tensor, rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """What the adversary learns from in one turn: a discriminator from the generator's own batch; a critic
        `n_critic` times from random pictures of its own, `critic_batch_size` of them."""
        if self.recipe.adversary == "discriminator":
            yield real, fake.detach()
        if self.recipe.adversary != "critic":
            return
        for _ in range(self.recipe.n_critic):
            chosen = torch.randperm(len(self.splits.train), generator=rng)[: self.recipe.critic_batch_size]
            critic_real, critic_gray = self.training_batch(chosen.tolist(), rng)
            with torch.no_grad():
                critic_fake, _ = self.generate(critic_gray)
            yield critic_real, critic_fake

    def update_discriminator(self, real: Tensor, fake: Tensor, rng: torch.Generator) -> Tensor:
        """One Adam step of the discriminator or critic on real and generated pictures, (B, 3, H, W) each.

        A critic's 64 pictures are taken `micro_batch` at a time and their gradients added up: it treats each picture on
        its own, so that this is the same step in a fraction of the memory. A discriminator's batch is one micro-batch.
        """
        total = torch.zeros((), device=self.device)
        for real_micro, fake_micro in zip(real.split(self.micro_batch), fake.split(self.micro_batch), strict=True):
            with self.precision.autocast():
                real_scores, fake_scores = self.discriminator(real_micro), self.discriminator(fake_micro)
                loss = self.discriminator_loss(real_scores.float(), fake_scores.float())
                if self.recipe.adversary == "critic":
                    # By `forward`, which is never the compiled one: that has no second derivatives.
                    penalty = losses.gradient_penalty(self.discriminator.forward, real_micro, fake_micro, rng)
                    loss = loss + self.recipe.lambda_gp * penalty
            loss = loss * (len(real_micro) / len(real))
            self.precision.backward(loss, "discriminator")
            total += loss.detach()
        self.precision.step(self.optimizer_d, "discriminator")
        return total

    # ------------------------------------------------------------ an epoch

    def run_epoch(self, progress: bool, after_step: Callable[[], None]) -> None:
        """The rest of the current epoch's steps, then validation and one more number on every curve."""
        batches = EpochBatches(len(self.splits.train), self.recipe.batch_size, self.seed)
        batches.set_position(self.epoch, done=len(self.step_losses))
        label = f"epoch {self.epoch + 1}/{self.recipe.epochs}"
        start = time.perf_counter() - self.epoch_seconds
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.recipe.learning_rate_in(self.epoch)
        self.predictor.train()
        done = len(self.step_losses)
        with tqdm(total=len(batches), initial=done, desc=label, leave=False, disable=not progress) as bar:
            for indices in batches:
                rng = generator_for(self.seed, self.epoch, len(self.step_losses), 1)
                torch.manual_seed(rng.initial_seed())  # of dropout
                real, gray = self.training_batch(indices, rng)
                self.step_losses.append(self.step(real, gray, rng))
                if len(self.step_losses) % CHECK_EVERY == 0:
                    self.require_finite()
                self.epoch_seconds = time.perf_counter() - start
                after_step()
                bar.update()
        self.require_finite()

        means = torch.stack(self.step_losses).cpu().double().mean(dim=0).tolist()  # Apple's GPUs have no float64
        loader = make_loader(self.splits.val, self.recipe.batch_size)
        mse, autocast = losses.RECONSTRUCTION["mse"], self.precision.autocast
        validation: Validation = validate(self.kept_predictor, mse, loader, autocast=autocast)
        if not math.isfinite(validation.loss):
            raise Diverged(f"the validation loss became NaN or infinite after epoch {self.epoch + 1}")
        numbers = dict(zip(STEP_LOSSES, means, strict=True)) | {
            "validation_loss": validation.loss,
            "psnr": validation.psnr,
            "ssim": validation.ssim,
            "mae": validation.mae,
            "seconds": time.perf_counter() - start,
        }
        for curve, number in numbers.items():
            if self.discriminator is not None or curve not in ADVERSARY_CURVES:
                self.history[curve].append(number)
        self.epoch += 1
        self.step_losses, self.epoch_seconds = [], 0.0

    def require_finite(self) -> None:
        """Raises Diverged, with the first step whose losses are not finite, and their names."""
        if not self.step_losses:
            return
        rows = torch.stack(self.step_losses)
        checks = [rows.isfinite().all()]
        for network in self.networks.values():
            checks += [weights.isfinite().all() for weights in network.parameters()]
        if torch.stack(checks).all():  # one answer is fetched from the device, not one a parameter
            return
        rows = rows.cpu()
        bad = (~rows.isfinite()).nonzero()
        if len(bad):
            step = int(bad[0, 0])
            names = [name for name, value in zip(STEP_LOSSES, rows[step], strict=True) if not value.isfinite()]
            raise Diverged(f"{' and '.join(names)} became NaN or infinite in epoch {self.epoch + 1}, step {step + 1}")
        for name, network in self.networks.items():
            if not all(bool(value.isfinite().all()) for value in network.parameters()):
                raise Diverged(
                    f"the {name}'s weights became NaN or infinite in epoch {self.epoch + 1}, "
                    f"by step {len(self.step_losses)}"
                )

    # ------------------------------------------------------------ state

    def _parts(self) -> dict[str, nn.Module | MovingAverage | Adam]:
        """What has a state of its own, under the names that it has in a saved one."""
        parts = {
            **self.networks,
            "ema": self.ema,
            "optimizer_g": self.optimizer_g,
            "optimizer_d": self.optimizer_d,
        }
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def kept(self) -> nn.Module:
        """The generator whose weights are validated and kept: the moving average, where there is one."""
        return self.generator if self.ema is None else self.ema.module

    def state_dict(self) -> dict:
        """Tensors, numbers, strings, lists and dicts only, so that `weights_only=True` can read it back."""
        return {
            "recipe": self.recipe.as_dict(),
            "seed": self.seed,
            "pictures": self.pictures,
            "epoch": self.epoch,
            "step_losses": [row.cpu() for row in self.step_losses],
            "epoch_seconds": self.epoch_seconds,
            "history": self.history,
            **{name: part.state_dict() for name, part in self._parts().items()},
            "precision": self.precision.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        state = {_RENAMED.get(name, name): value for name, value in state.items()}
        self.epoch = state["epoch"]
        self.step_losses = [row.to(self.device) for row in state["step_losses"]]
        self.epoch_seconds = state["epoch_seconds"]
        self.history = state["history"]
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.precision.load_state_dict(state["precision"])


def _digest(splits: Splits) -> str:
    """A short digest of which pictures are trained on and validated with, and of how they became squares."""
    names = "\n".join([*splits.train.names, "", *splits.val.names, *(["cropped"] if splits.crop else [])])
    return hashlib.sha256(names.encode()).hexdigest()[:16]


class Diverged(TrainingError):
    """A loss or a weight is no longer a finite number."""


def train(
    recipe: Recipe,
    splits: Splits,
    folder: str | Path,
    *,
    resume: bool = False,
    device: str | torch.device | None = None,
    precision: str = "auto",
    seed: int = 0,
    save_minutes: float = 5.0,
    progress: bool = True,
    compiled: bool = False,
    on_epoch: Callable[[int, History, nn.Module], None] | None = None,
) -> History:
    """Trains `recipe` on `splits` (of the recipe's size) and keeps the run in `folder`; returns its curves.

    resume: go on where the run in `folder` stopped; starts one if there is none. The learning rate may be another, and
        without decay the number of epochs; any other change of recipe, seed or pictures is refused.
    precision: "auto" (bf16 from compute capability 8, fp16 with loss scaling below, fp32 elsewhere) or one by name.
    save_minutes: how much work a killed run may lose at most; the state is also saved at the end of the run.
    compiled: compiles both networks at the first steps, for long runs on a GPU: on a CPU that takes minutes. The curves
        differ by rounding.
    on_epoch: called after each epoch with the number of epochs done, the curves and the generator (in training mode),
        keeping luminance if the recipe says so.

    The global random state is put back afterwards. Raises TrainingError where a loss turns NaN or infinite (the message
    names epoch, step and last good checkpoint), memory runs out, the pictures have another size than the recipe,
    `folder` holds another run or cannot be written.
    """
    folder = Path(folder)
    device = choose_device(device)
    if device.type == "cpu":
        keep_freed_memory()
    splits = _on_device(splits, device)
    size = splits.train.pictures.shape[1]
    if size != recipe.size:
        raise TrainingError(f"the pictures are {size}×{size}, the recipe is for {recipe.size}×{recipe.size}")
    folder.mkdir(parents=True, exist_ok=True)  # a folder that cannot be written fails now, not after an epoch
    saver = _Saver(folder, 60 * save_minutes)
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(seed)
        try:
            trainer = Trainer(recipe, splits, device, precision, seed, compiled)
            saver.restore(trainer, resume)
            while trainer.epoch < recipe.epochs:
                trainer.run_epoch(progress, lambda: saver.after_step(trainer))
                saver.after_epoch(trainer)
                if on_epoch is not None:
                    on_epoch(trainer.epoch, trainer.history, trainer.kept_predictor)
        except Diverged as error:
            raise Diverged(
                f"{error}; last good checkpoint: {saver.last_good}; lower the learning rate or train in fp32, "
                "then resume"
            ) from None
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"out of memory on {device} at batch size {recipe.batch_size}, {recipe.size}×{recipe.size}, width "
                f"{recipe.width:g}: start another run at half the batch size, then at half the size (a quarter of the "
                f"memory) or width; last good checkpoint: {saver.last_good}"
            ) from error
    return trainer.history


def _on_device(splits: Splits, device: torch.device) -> Splits:
    """Training and validation pictures on a GPU that has the room: 8-bit, they need 0.2 GB a thousand at 256×256."""
    parts = {"train": splits.train, "val": splits.val}
    need = sum(len(part) * part.pictures[0].nbytes for part in parts.values())
    if not has_room_for(need, device):
        return splits
    return replace(splits, **{name: part.to(device) for name, part in parts.items()})


class _Saver:
    """Writes a trainer's run to its folder, and reads it back."""

    MAY_CHANGE = ("epochs", "learning_rate")

    def __init__(self, folder: Path, seconds: float):
        self.folder, self.seconds = folder, seconds
        self.state_path, self.best_path = folder / "state.pt", folder / "best.safetensors"
        self.last_path, self.history_path = folder / "last.safetensors", folder / "history.json"
        self.saved_at = time.monotonic()
        self.last_good = "none yet"

    def restore(self, trainer: Trainer, resume: bool) -> None:
        """Puts the trainer where the run in the folder stopped; nothing to do where there is none."""
        paths = (self.state_path, self.best_path, self.last_path, self.history_path)
        if not resume and any(path.exists() for path in paths):
            raise TrainingError(
                f"{self.folder} holds a run already: resume it (resume=True, --resume) or choose another folder"
            )
        if not self.state_path.is_file():
            return
        try:
            state = torch.load(self.state_path, map_location="cpu", weights_only=True)
            self._require_same_run(trainer, state)
            trainer.load_state_dict(state)
        except TrainingError:
            raise
        except Exception as error:  # zip, pickle, key or tensor errors: whatever is wrong with the file
            if is_out_of_memory(error):
                raise
            reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
            raise TrainingError(f"{self.state_path} cannot be read ({reason}); start in another folder") from error
        self._mark_good(trainer)

    def _require_same_run(self, trainer: Trainer, state: dict) -> None:
        ours = trainer.recipe.as_dict() | {"seed": trainer.seed, "pictures": trainer.pictures}
        theirs = Recipe.from_dict(state["recipe"]).as_dict() | {"seed": state["seed"], "pictures": state["pictures"]}
        differing = [name for name in ours if ours[name] != theirs.get(name) and name not in self.MAY_CHANGE]
        if trainer.recipe.decay and ours["epochs"] != theirs["epochs"]:
            differing.append("epochs")  # the learning rate would have been another from the start
        if differing:
            changes = ", ".join(f"{name} was {theirs.get(name)!r}, is {ours[name]!r}" for name in differing)
            raise TrainingError(
                f"{self.folder} holds another run ({changes}); give the same settings or another folder"
            )

    def after_step(self, trainer: Trainer) -> None:
        if time.monotonic() - self.saved_at >= self.seconds:
            self.save(trainer)

    def after_epoch(self, trainer: Trainer) -> None:
        losses_so_far = trainer.history["validation_loss"]
        if losses_so_far[-1] == min(losses_so_far):
            with self._reporting_write_errors():
                checkpoints.save(self.best_path, trainer.kept, self._metadata(trainer))
        if trainer.epoch == trainer.recipe.epochs or time.monotonic() - self.saved_at >= self.seconds:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        trainer.require_finite()
        with self._reporting_write_errors():
            checkpoints.save(self.last_path, trainer.kept, self._metadata(trainer))
            with atomic_write(self.history_path) as temporary:
                temporary.write_text(json.dumps(trainer.history), encoding="utf-8")
            with atomic_write(self.state_path) as temporary:
                torch.save(trainer.state_dict(), temporary)
        self._mark_good(trainer)

    def _mark_good(self, trainer: Trainer) -> None:
        self.saved_at = time.monotonic()
        self.last_good = f"{self.state_path} (epoch {trainer.epoch + 1}, step {len(trainer.step_losses)})"

    @contextmanager
    def _reporting_write_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError, RuntimeError) as error:  # of a full disk each library makes its own
            reason = str(error).splitlines()[0][:160]
            raise TrainingError(
                f"cannot save the run in {self.folder} ({reason}): free some space, then resume; "
                f"last good checkpoint: {self.last_good}"
            ) from error

    def _metadata(self, trainer: Trainer) -> dict:
        recipe, history = trainer.recipe, trainer.history
        return {
            "recipe": recipe.as_dict(),
            "architecture": recipe.generator,
            "width": recipe.width,
            "bounded": recipe.bounded,
            "size": recipe.size,
            "epoch": trainer.epoch,
            "training_pictures": len(trainer.splits.train),
            "split": trainer.splits.record,
            "seconds": sum(history["seconds"]),
            "metrics": {curve: values[-1] for curve, values in history.items() if values},
        }
