"""One training loop for every recipe: `train` runs it, `Trainer.step` is the algorithm.

A run lives in a folder, which may be on a mounted Drive:

    state.pt           everything needed to resume: networks, optimizers, epoch, step, curves
    best.safetensors   the generator of the epoch with the lowest validation loss
    last.safetensors   the generator of the latest save
    history.json       the curves

No best checkpoint exists without a state to resume from. Every random choice follows from (seed, epoch, step), so that
a run that was killed and resumed ends in the same weights as one that never stopped: to the bit on a CPU with the same
number of threads, on which the order of sums depends.
"""

import copy
import hashlib
import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim import Adam, AdamW
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm.auto import tqdm

from colorize_utils import checkpoints, losses
from colorize_utils.colour import luma
from colorize_utils.data import EpochBatches, Splits, generator_for, make_loader
from colorize_utils.data.augmentation import augmented, flip_some, with_surroundings
from colorize_utils.data.degradation import with_old_prints
from colorize_utils.data.hints import with_hints
from colorize_utils.devices import (
    Precision,
    choose_device,
    frozen,
    has_room_for,
)
from colorize_utils.errors import CheckpointError, ColorizeError, TrainingError
from colorize_utils.files import atomic_write
from colorize_utils.machine import is_out_of_memory, keep_freed_memory
from colorize_utils.metrics import Validation, validate
from colorize_utils.models import Critic, Discriminator, DistributionUNet, MeanColour, build_generator, predictor
from colorize_utils.multiscale import MultiscaleUNet
from colorize_utils.ranks import ALONE, Part, Ranks
from colorize_utils.recipes import Recipe
from colorize_utils.runs import DriveFolder, Interruption, lies_on_drive

STEP_LOSSES = ("discriminator_loss", "generator_loss", "reconstruction_loss", "adversarial_loss", "mse")
CURVES = (*STEP_LOSSES, "validation_loss", "psnr", "ssim", "mae", "seconds")
ADVERSARY_CURVES = ("discriminator_loss", "adversarial_loss")  # empty where a recipe has no adversary
FITTED_LATER = {"strange_weight", "strange_bias"}  # of a generator, to a network that has been trained
CHECK_EVERY = 20  # steps between two checks that the losses are finite: each check has to wait for the GPU

_RENAMED = {"average": "ema"}  # in states that earlier versions wrote

History = dict[str, list[float]]
"""The curves by the names in `CURVES`, each with one number an epoch. For a critic, `discriminator_loss` is its loss
including the penalty, and `adversarial_loss` is −mean D(fake)."""


class MovingAverage:
    """The exponential moving average (EMA) of a network's weights and buffers: d · average + (1 − d) · latest.

    Whole numbers among the buffers are those of the latest network.

    The decay d starts low and grows to `decay`, so that the weights of the first steps are soon forgotten. It does what
    `torch.optim.swa_utils.AveragedModel` does, and reads and writes the same states; but that class keeps the number of
    updates in a tensor, which has to travel between device and host at each of them.

    Args:
        network: What is averaged; it is copied.
        decay: The largest d, in [0, 1).

    Attributes:
        module: A copy of the network that holds the averages.
        decay: As given.
        updates: How often `update` was called.
    """

    def __init__(self, network: nn.Module, decay: float):
        self.module, self.decay, self.updates = copy.deepcopy(network), decay, 0

    def update(self, network: nn.Module) -> None:
        """Takes a network's weights and buffers into the average; the first update copies them.

        Args:
            network: The one that is averaged, after an optimizer's step.
        """
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.updates else 0.0
        kept, latest = self.module.state_dict(), network.state_dict()
        averaged = [key for key, value in kept.items() if value.is_floating_point()]
        get_ema_multi_avg_fn(decay)([kept[key] for key in averaged], [latest[key] for key in averaged], self.updates)
        for key in kept.keys() - averaged:  # counts of batches, sizes: the mean of whole numbers is none
            kept[key].copy_(latest[key])
        self.updates += 1

    def state_dict(self) -> dict[str, Tensor]:
        """The averages and the number of updates, under the keys of `AveragedModel`."""
        weights = {f"module.{key}": value for key, value in self.module.state_dict().items()}
        return {"n_averaged": torch.tensor(self.updates), **weights}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores an average.

        Args:
            state: What `state_dict` gave.
        """
        self.updates = int(state["n_averaged"])
        weights = {key: value for key, value in state.items() if key != "n_averaged"}
        self.module.load_state_dict({key.removeprefix("module."): value for key, value in weights.items()})


class Trainer:
    """The networks, optimizers and position of a run; `step` is one step of the algorithm, `run_epoch` one epoch.

    Args:
        recipe: What is trained, and how.
        splits: The pictures, of the recipe's size.
        device: Where the networks are.
        precision: One of `devices.PRECISIONS`.
        seed: What every random choice follows from, with epoch and step.
        compiled: Whether both networks are compiled at their first step.
        ranks: The processes that train together; each has a trainer, and by itself none of them writes or shows.

    Attributes:
        generator, discriminator: The networks; the second may be a critic, or None.
        predictor: The generator as a network from gray to colour, which keeps luminance if the recipe says so.
        kept_predictor: The same with the weights that are kept (`kept`).
        micro_batch: How many pictures the discriminator or critic takes at a time.
        history: The curves so far.
        epoch: How many epochs are complete.
        started_from: The checkpoint whose weights the run began with, as "name (first digits of its SHA-256)"; "" where
            it began with random ones.
        step_losses: The losses of each step of the current epoch, (5,) each, in the order of `STEP_LOSSES`.
        epoch_seconds: How long the current epoch has taken.

    Raises:
        ValueError: `precision` is none of `devices.PRECISIONS`.
    """

    def __init__(
        self,
        recipe: Recipe,
        splits: Splits,
        device: torch.device,
        precision: str = "auto",
        seed: int = 0,
        compiled: bool = False,
        ranks: Ranks = ALONE,
    ):
        self.recipe, self.splits, self.device, self.seed = recipe, splits, device, seed
        self.ranks = ranks
        self.precision = Precision(device, precision, has_discriminator=recipe.adversary == "discriminator")
        self.asked_precision = precision
        self.generator = build_generator(
            recipe.generator, recipe.width, recipe.bounded, recipe.dropout, recipe.working_sizes
        ).to(device)
        ranks.synchronize(self.generator)
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
        self._lay_out()
        if compiled:
            for network in self.networks.values():
                network.compile()
        self.ema = MovingAverage(self.generator, recipe.ema_decay) if recipe.ema_decay else None
        self.kept_predictor = predictor(self.kept, recipe.keep_luminance)
        # At full width and 256×256, a critic's micro-batch is as large as a batch. Smaller networks and pictures leave
        # room for more: 64 at once made a step 24 to 60 % shorter than 8 at a time (64×64 and 32×32, two CPU cores).
        micro_batch = recipe.batch_size * (256 / recipe.size) ** 2 / recipe.width
        self.micro_batch = max(recipe.batch_size, int(micro_batch))
        adam: dict[str, Any] = {
            "lr": recipe.learning_rate,
            "betas": recipe.betas,
            "fused": device.type in ("cpu", "cuda"),
        }
        self.optimizer_g = Adam(self.generator.parameters(), **adam)
        if recipe.weight_decay:
            self.optimizer_g = AdamW(_parameter_groups(self.generator, recipe.weight_decay), **adam)
        self.optimizer_d = None if self.discriminator is None else Adam(self.discriminator.parameters(), **adam)
        self.optimizers = [self.optimizer_g] if self.optimizer_d is None else [self.optimizer_g, self.optimizer_d]

        self.pictures = _digest(splits)
        self.history: History = {curve: [] for curve in CURVES}
        self.epoch = 0
        self.started_from = ""
        self.step_losses: list[Tensor] = []
        self.epoch_seconds = 0.0

    def _lay_out(self) -> None:
        """Channels-last: the layout of a GPU's tensor cores.

        On a CPU it makes a step of `MultiscaleUNet` in bf16 1.2 to 1.8 times as fast; a GAN's gains nothing by it.
        """
        if self.device.type == "cuda" or (self.precision.name == "bf16" and self.discriminator is None):
            for network in self.networks.values():
                network.to(memory_format=torch.channels_last)

    # ------------------------------------------------------------ the algorithm

    def step(self, real: Tensor, gray: Tensor, rng: torch.Generator, hints: Tensor | None = None) -> Tensor:
        """One step of the algorithm: first the discriminator (or critic) learns, then the generator.

        Args:
            real: (B, 3, H, W), RGB in [0, 1], on the trainer's device; the whole batch, also where several processes
                share it.
            gray: (B, 1, H, W) in [0, 1], the same pictures in gray.
            rng: A CPU generator for the step's random choices.
            hints: (B, 3, H, W), for a generator that takes them (multiscale.py); by default none.

        Returns:
            The losses, (5,), detached, in the order of `STEP_LOSSES`; the adversary's are 0 where the recipe has none.
        """
        recipe = self.recipe
        logits: Tensor | None
        real, gray, part = self.ranks.deal(real, gray)  # all of the batch, or the part of this one of several processes
        hints = part.of(hints)
        if recipe.places:
            fake, logits, real = self.generate_at_places(gray, real, rng, hints, part)
        else:
            # For both networks: the generator's own step comes last.
            fake, logits = self.generate(gray, hints)  # (B, 3, H, W)
        d_loss = adversarial = torch.zeros((), device=self.device)  # they stay 0 in a recipe without an adversary
        for real_batch, fake_batch, its_part in self.adversary_batches(real, fake, rng, part):
            d_loss = self.update_discriminator(real_batch, fake_batch, rng, its_part)

        with frozen(self.discriminator), self.precision.autocast():
            if self.discriminator is not None:
                adversarial = self.adversarial_loss(self.discriminator(fake).float())
            reconstruction = self.reconstruction_loss(fake, real)
            g_loss = recipe.lambda_adv * adversarial + recipe.lambda_rec * reconstruction
            if logits is not None:
                g_loss = g_loss + recipe.lambda_dist * losses.distribution_loss(logits, real)
            self.precision.backward(part.share * g_loss, "generator")
        squared_error = losses.RECONSTRUCTION["mse"](fake.detach(), real)
        row = torch.stack([g_loss.detach(), reconstruction.detach(), adversarial.detach(), squared_error])
        row = self.ranks.add_up(self.generator, row, part)
        self.precision.step(self.optimizer_g, "generator")
        if self.ema is not None:
            self.ema.update(self.generator)
        return torch.cat([d_loss[None], row])

    def generate(self, gray: Tensor, hints: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Colour pictures from the generator, in the trainer's precision.

        Args:
            gray: (B, 1, H, W) in [0, 1].
            hints: (B, 3, H, W), for a generator that takes them; by default none.

        Returns:
            Generated pictures (B, 3, H, W), RGB in about [0, 1], float32; and the logits of the distribution over
            colours, (B, palette.COLOURS, H/2, W/2), or None where the generator predicts no distribution.
        """
        with self.precision.autocast():
            if not isinstance(self.predictor, MeanColour):
                return self.predictor(gray).float(), None
            logits = (self.generator(gray) if hints is None else self.generator(gray, hints)).float()
            return self.predictor.colour(gray, logits), logits

    def generate_at_places(
        self,
        gray: Tensor,
        real: Tensor,
        rng: torch.Generator,
        hints: Tensor | None = None,
        part: Part | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Colour at `recipe.places` random places of each picture, from a generator that predicts a distribution.

        The places, N in all, are as far apart in their pictures as they happen to be; they are arranged as one
        picture, N pixels high and one wide.

        Args:
            gray: (B, 1, H, W) in [0, 1].
            real: (B, 3, H, W), RGB in [0, 1].
            rng: A CPU generator for the choice of places.
            hints: (B, 3, H, W), for a generator that takes them; by default none.
            part: Which part of a batch the pictures are, whose places are chosen from all of it; by default all of it.

        Returns:
            Generated colour (1, 3, N, 1), RGB in about [0, 1]; the logits of its distribution, (1, COLOURS, N, 1); and
            real colour (1, 3, N, 1), all float32.
        """
        # A recipe refuses places for other generators.
        assert isinstance(self.generator, (DistributionUNet, MultiscaleUNet))
        with self.precision.autocast():
            features = self.generator.features(*(gray,) if hints is None else (gray, hints))  # (B, C, H/2, W/2)
            part = part or ALONE.part_of(len(gray))
            each = features.shape[-2] * features.shape[-1]
            chosen = torch.randperm(part.pictures * each, generator=rng)[: self.recipe.places * part.pictures]
            chosen = part.places(chosen, each).to(gray.device)

            def at_places(planes: Tensor) -> Tensor:
                return planes.permute(0, 2, 3, 1).flatten(0, 2)[chosen].T[None, :, :, None]  # (1, C, N, 1)

            logits = self.generator.head(at_places(features)).float()
            real = at_places(F.avg_pool2d(real, kernel_size=2))
            return MeanColour.colour(luma(real), logits), logits, real

    def training_batch(self, indices: Sequence[int], rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Training pictures for either network, mirrored and augmented where the recipe says so.

        Args:
            indices: The pictures' places in the training split.
            rng: A CPU generator for mirroring and augmentation.

        Returns:
            real (B, 3, H, W), RGB, and gray (B, 1, H, W), in [0, 1], on the trainer's device.
        """
        real, gray = self.splits.train[indices]
        sizes = self.recipe.sizes_in(self.epoch)
        size = sizes[int(torch.randint(len(sizes), (), generator=rng))] if len(sizes) > 1 else sizes[0]
        if size != real.shape[-1]:
            real = F.interpolate(real, size=(size, size), mode="bilinear", antialias=True)
            gray = luma(real)
        if self.recipe.flip:
            real, gray = flip_some(real, gray, rng)
        if self.recipe.augment:  # before they go to the device: not every device can augment
            real, gray = augmented(real, rng)
        if self.recipe.surroundings:
            real, gray = with_surroundings(real, rng)
        if self.recipe.degrade and not self.recipe.is_small_in(self.epoch):
            real, gray = with_old_prints(real, gray, rng)
        return real.to(self.device), gray.to(self.device)

    def adversary_batches(
        self, real: Tensor, fake: Tensor, rng: torch.Generator, part: Part
    ) -> Iterator[tuple[Tensor, Tensor, Part]]:
        """The batches that the adversary learns from in one step of the algorithm.

        For a discriminator that is the generator's own batch; for a critic, `n_critic` batches of `critic_batch_size`
        random pictures; without an adversary, nothing.

        Args:
            real: (B, 3, H, W), the generator's batch.
            fake: (B, 3, H, W), what the generator made of it.
            rng: A CPU generator that a critic's pictures are drawn with.
            part: Which part of the generator's batch that is.

        Yields:
            Real and generated pictures, (N, 3, H, W) each, without a gradient to the generator; and which part of the
            adversary's batch they are.
        """
        if self.recipe.adversary == "discriminator":
            yield real, fake.detach(), part
        if self.recipe.adversary != "critic":
            return
        for _ in range(self.recipe.n_critic):
            chosen = torch.randperm(len(self.splits.train), generator=rng)[: self.recipe.critic_batch_size]
            critic_real, critic_gray, part = self.ranks.deal(*self.training_batch(chosen.tolist(), rng))
            with torch.no_grad():
                critic_fake, _ = self.generate(critic_gray)
            yield critic_real, critic_fake, part

    def update_discriminator(
        self, real: Tensor, fake: Tensor, rng: torch.Generator, part: Part | None = None
    ) -> Tensor:
        """One Adam step of the discriminator or critic.

        A critic's 64 pictures are taken `micro_batch` at a time and their gradients added up: a critic scores each
        picture on its own, so that this is the same step in a fraction of the memory. A discriminator's batch is one
        micro-batch.

        Args:
            real: (B, 3, H, W), RGB in [0, 1], on the trainer's device.
            fake: Generated pictures, the same shape, without a gradient to the generator.
            rng: A CPU generator for the gradient penalty.
            part: Which part of the batch they are; by default all of it.

        Returns:
            The loss of the whole batch, a critic's with its penalty: a scalar, detached.
        """
        assert self.discriminator is not None and self.optimizer_d is not None  # else there is no batch to learn from
        total = torch.zeros((), device=self.device)
        part = part or ALONE.part_of(len(real))
        epsilon = part.of(torch.rand(part.pictures, 1, 1, 1, generator=rng)).to(self.device)  # of the gradient penalty
        micro_batches = (pictures.split(self.micro_batch) for pictures in (real, fake, epsilon))
        for real_micro, fake_micro, epsilon_micro in zip(*micro_batches, strict=True):
            with self.precision.autocast():
                real_scores, fake_scores = self.discriminator(real_micro), self.discriminator(fake_micro)
                loss = self.discriminator_loss(real_scores.float(), fake_scores.float())
                if self.recipe.adversary == "critic":
                    # `forward` is never compiled: a compiled network has no second derivatives.
                    penalty = losses.gradient_penalty(
                        self.discriminator.forward, real_micro, fake_micro, epsilon=epsilon_micro
                    )
                    loss = loss + self.recipe.lambda_gp * penalty
            loss = loss * (len(real_micro) / len(real))
            self.precision.backward(part.share * loss, "discriminator")
            total += loss.detach()
        (total,) = self.ranks.add_up(self.discriminator, total[None], part)
        self.precision.step(self.optimizer_d, "discriminator")
        return total

    def start_from(self, checkpoint: str | os.PathLike[str]) -> None:
        """Gives the generator, and its average, the weights of a checkpoint.

        Input channels that the checkpoint's network does not have, such as those of hints, keep their random weights.

        Args:
            checkpoint: A name of the registry (checkpoints/hub.py), a link or a file.

        Raises:
            CheckpointError: The checkpoint cannot be fetched or read, or its weights do not fit the generator.
        """
        path = checkpoints.fetch(checkpoint)
        given, own = checkpoints.read_weights(path).state, self.generator.state_dict()
        for key in FITTED_LATER & own.keys():
            given[key] = own[key]
        wrong = [key for key in own.keys() | given.keys() if not _fits(given.get(key), own.get(key))]
        if wrong:
            raise CheckpointError(
                f"{Path(checkpoint).name} does not fit {self.recipe.name} at width {self.recipe.width:g} "
                f"({min(wrong)}): give the recipe and the width that it was trained with"
            )
        for key, value in own.items():
            kept = value[:, : given[key].shape[1]] if value.ndim > 1 else value
            kept.copy_(given[key])
        self.generator.load_state_dict(own)
        if self.ema is not None:
            self.ema = MovingAverage(self.generator, self.recipe.ema_decay)
            self.kept_predictor = predictor(self.kept, self.recipe.keep_luminance)
        self.started_from = f"{Path(checkpoint).name} ({hashlib.sha256(path.read_bytes()).hexdigest()[:12]})"

    # ------------------------------------------------------------ an epoch

    def run_epoch(self, progress: bool, after_step: Callable[[], None]) -> None:
        """The remaining steps of the current epoch, then validation and one more number on every curve.

        Args:
            progress: Whether to show a progress bar.
            after_step: Called after each step.

        Raises:
            Diverged: A loss or a weight became NaN or infinite.
        """
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
                torch.manual_seed(rng.initial_seed() + self.ranks.rank)  # of dropout
                real, gray = self.training_batch(indices, rng)
                hints = None
                if self.recipe.hints and not self.recipe.is_small_in(self.epoch):
                    real, hints = with_hints(real, rng)
                self.step_losses.append(self.step(real, gray, rng, hints))
                if len(self.step_losses) % CHECK_EVERY == 0:
                    self.require_finite()
                self.epoch_seconds = time.perf_counter() - start
                after_step()
                bar.update()
        self.require_finite()

        means = torch.stack(self.step_losses).cpu().double().mean(dim=0).tolist()  # Apple's GPUs have no float64
        mse, autocast = losses.RECONSTRUCTION["mse"], self.precision.autocast

        def validated(batches: Iterable[tuple[Tensor, Tensor]]) -> Validation:
            return validate(self.kept_predictor, mse, batches, autocast=autocast)

        loader = make_loader(self.splits.val, self.recipe.batch_size)
        validation = Validation(*self.ranks.mean_over_batches(validated, loader))
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
        """Checks the losses of the current epoch and the weights of the networks.

        Raises:
            Diverged: Some are NaN or infinite; the message names the first step and its losses, or the network.
        """
        if not self.step_losses:
            return
        rows = torch.stack(self.step_losses)
        checks = [rows.isfinite().all()]
        for network in self.networks.values():
            checks += [weights.isfinite().all() for weights in network.parameters()]
        if torch.stack(checks).all():  # one transfer from the device, not one for each parameter
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
        """Networks, optimizers and moving average, each under its key in a saved state."""
        parts = {
            **self.networks,
            "ema": self.ema,
            "optimizer_g": self.optimizer_g,
            "optimizer_d": self.optimizer_d,
        }
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def kept(self) -> nn.Module:
        """The generator that is validated and saved as a checkpoint: the moving average, where there is one."""
        return self.generator if self.ema is None else self.ema.module

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume, in types that `torch.load` reads under `weights_only=True`."""
        return {
            "recipe": self.recipe.as_dict(),
            "seed": self.seed,
            "pictures": self.pictures,
            "epoch": self.epoch,
            "step_losses": [row.cpu() for row in self.step_losses],
            "epoch_seconds": self.epoch_seconds,
            "history": self.history,
            "started_from": self.started_from,
            **{name: part.state_dict() for name, part in self._parts().items()},
            "precision": self.precision.state_dict(),
            "machine": {
                "threads": torch.get_num_threads(),
                "precision": self.precision.name,
                "processes": self.ranks.count,
            },
        }

    def begin_together(self) -> None:
        """Puts the trainers of all processes where the first one's is, whose run may have been resumed.

        Raises:
            TrainingError: This process has other pictures than the first one.
        """
        if self.ranks.alone:
            return
        state = self.ranks.state_of_the_first(self.state_dict())
        if state["pictures"] != self.pictures:
            raise TrainingError("the pictures here are not those of rank 0: give every machine the same data")
        self.load_state_dict(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts the trainer where a saved one was.

        Warns where the run was saved with another number of threads on a CPU, or of processes.

        Args:
            state: What `state_dict` gave, now or in an earlier version.
        """
        state = {_RENAMED.get(name, name): value for name, value in state.items()}
        self.epoch = state["epoch"]
        self.step_losses = [row.to(self.device) for row in state["step_losses"]]
        self.epoch_seconds = state["epoch_seconds"]
        self.history = state["history"]
        self.started_from = state.get("started_from", "")  # earlier versions did not note it
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        machine = state.get("machine", {})  # earlier versions did not note it
        if self.asked_precision == "auto" and "precision" in machine:
            self.precision = Precision(self.device, machine["precision"])
            self._lay_out()
        threads = torch.get_num_threads()
        if self.device.type == "cpu" and machine.get("threads", threads) != threads and self.ranks.first:
            warnings.warn(
                f"the run was saved with {machine['threads']} threads and goes on with {threads}: its weights will not "
                f"be equal to the bit to those of a run that never stopped (OMP_NUM_THREADS={machine['threads']} would "
                "keep them so)",
                stacklevel=4,  # who called train
            )
        processes = machine.get("processes", 1)
        if machine and processes != self.ranks.count and self.ranks.first:
            warnings.warn(
                f"the run was saved by {processes} process{'es' * (processes > 1)} and goes on with "
                f"{self.ranks.count}: its weights will be those of a run that never stopped only up to rounding"
                + (", but for the groups of pictures that its batch norms see" if self.device.type == "cpu" else "")
                + (", but for dropout's masks" if self.recipe.dropout else ""),
                stacklevel=4,  # who called train
            )
        self.precision.load_state_dict(state["precision"])


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Kernels decay; biases and the scales of batch norms do not."""
    parameters = list(network.parameters())
    return [
        {"params": [values for values in parameters if values.ndim > 1], "weight_decay": weight_decay},
        {"params": [values for values in parameters if values.ndim <= 1], "weight_decay": 0.0},
    ]


def _fits(given: Tensor | None, own: Tensor | None) -> bool:
    """Whether weights can take the place of others: they have the same shape, or a kernel fewer input channels."""
    if given is None or own is None or given.ndim != own.ndim:
        return False
    fewer = given.ndim == 4 and given.shape[1] < own.shape[1]
    return given.shape == own.shape or (fewer and given[:, :1].shape == own[:, :1].shape)


def _digest(splits: Splits) -> str:
    """A short digest of which pictures are trained on and validated with, and of how they became squares."""
    names = "\n".join([*splits.train.names, "", *splits.val.names, *(["cropped"] if splits.crop else [])])
    return hashlib.sha256(names.encode()).hexdigest()[:16]


class Diverged(TrainingError):
    """A loss or a weight is no longer a finite number."""


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop and has saved everything; the message says where, and how to go on.

    Args:
        kept: What is saved, and where.
        advice: How to go on; by default as `train` and its command do.

    Attributes:
        kept: As given.
    """

    def __init__(self, kept: str, advice: str = "resume it (resume=True, --resume)"):
        super().__init__(f"interrupted, all is saved; {kept}; to go on, {advice}")
        self.kept = kept

    # In a notebook it is one line. It is no ColorizeError, because whoever catches those must not catch an interrupt.
    _render_traceback_ = ColorizeError._render_traceback_


def train(
    recipe: Recipe,
    splits: Splits,
    folder: str | Path,
    *,
    start_from: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str | torch.device | None = None,
    precision: str = "auto",
    seed: int = 0,
    save_minutes: float = 5.0,
    progress: bool = True,
    compiled: bool = False,
    on_epoch: Callable[[int, History, nn.Module], None] | None = None,
    ranks: Ranks = ALONE,
) -> History:
    """Trains a recipe on pictures and keeps the run in a folder.

    SIGINT (Ctrl-C, a notebook's stop button) and SIGTERM end the run after the current step, and everything is saved; a
    second signal acts at once. Signal handlers and the global random state are put back afterwards. Warns where a run
    is resumed with another number of threads.

    Args:
        recipe: What is trained, and how.
        splits: The pictures, of the recipe's size.
        folder: Where the run is kept; made where it does not exist.
        start_from: A checkpoint whose weights a new run begins with (`Trainer.start_from`); by default random ones.
        resume: Whether to go on where the run in `folder` stopped; one is started where there is none. The learning
            rate may have changed, and without decay the number of epochs; any other change of recipe, seed or pictures
            is refused.
        device: Where to train, by default the fastest device that there is (`devices.choose_device`).
        precision: One by name, or "auto": bf16 or fp16 on CUDA, bf16 for a GAN on a CPU that has it in hardware, else
            fp32 (`devices.choose_precision`); a run that is resumed keeps its precision.
        seed: What every random choice follows from.
        save_minutes: How much work a killed run may lose at most; the state is also saved at the end of the first and
            of the last epoch. To a folder on a mounted Drive, what has changed is copied at a limited rate, because
            replaced files fill the Drive's trash (runs.py); until then it lies on the local disk, from which a run that
            is resumed on the same machine goes on.
        progress: Whether to show a progress bar.
        compiled: Whether to compile both networks at the first steps, for long runs on a GPU: on a CPU that takes
            minutes. The curves differ by rounding.
        on_epoch: Called after each epoch with the number of epochs done, the curves and the generator (in training
            mode), which keeps luminance if the recipe says so.
        ranks: The processes that train together (`ranks.joined`), each of which calls this function alike. The first
            one reads and writes the folder, and shows; on the CPU it warns that each normalizes by its own pictures. A
            signal to any of them stops all after the same step.

    Returns:
        The run's curves.

    Raises:
        Diverged: A loss or a weight turned NaN or infinite; the message names epoch, step, last good state and best
            checkpoint. It is a TrainingError.
        Lost: Another process has ended. It is a TrainingError.
        TrainingError: Memory ran out, the pictures have another size than the recipe or are too few for it, or `folder`
            holds another run, holds a checkpoint without a state, or cannot be written.
        CheckpointError: `start_from` cannot be read, or does not fit the recipe.
        DeviceError: The device asked for does not exist here.
        Interrupted: A signal asked the run to stop. It is a KeyboardInterrupt.
    """
    folder = Path(folder)
    device = choose_device(ranks.device(device))
    if device.type == "cpu":
        keep_freed_memory()
        if not ranks.alone and ranks.first:
            warnings.warn(
                "on the CPU each process's batch norms see its own pictures alone, so that the run's weights depend on "
                "the number of processes",
                stacklevel=2,
            )
    splits = _on_device(splits, device)
    size = splits.train.pictures.shape[1]
    if size != recipe.size:
        raise TrainingError(f"the pictures are {size}×{size}, the recipe is for {recipe.size}×{recipe.size}")
    if (
        len(splits.train) < 2 and recipe.needs_two_pictures
    ):  # in larger pictures, the deepest features have more places than one
        raise TrainingError(
            f"there is {len(splits.train)} training picture, and batch normalization needs 2 or more at size {size}; "
            "add pictures, or take a larger size"
        )
    if ranks.first:
        folder.mkdir(parents=True, exist_ok=True)  # a folder that cannot be written fails now, not after an epoch
    saver = (_Saver if ranks.first else _Bystander)(folder, 60 * save_minutes)
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(seed)
        try:
            with Interruption() as interruption:
                trainer = Trainer(recipe, splits, device, precision, seed, compiled, ranks)
                if start_from is not None:
                    trainer.start_from(start_from)
                saver.restore(trainer, resume)
                trainer.begin_together()

                def after_step() -> None:
                    saver.after_step(trainer)
                    if ranks.any(interruption.requested):
                        saver.stop(trainer)

                while trainer.epoch < recipe.epochs:
                    trainer.run_epoch(progress and ranks.first, after_step)
                    saver.after_epoch(trainer)
                    if on_epoch is not None and ranks.first:
                        with saver.naming_what_is_kept():
                            on_epoch(trainer.epoch, trainer.history, trainer.kept_predictor)
                    if ranks.any(interruption.requested):
                        saver.stop(trainer)
        except Diverged as error:
            saver.hand_over()
            raise Diverged(f"{error}; {saver.kept}; lower the learning rate or train in fp32, then resume") from None
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            saver.hand_over()
            raise TrainingError(
                f"out of memory on {device} at batch size {recipe.batch_size}, {recipe.size}×{recipe.size}, width "
                f"{recipe.width:g}: start another run at half the batch size, then at half the size (a quarter of the "
                f"memory) or width; {saver.kept}"
            ) from error
    return trainer.history


def _on_device(splits: Splits, device: torch.device) -> Splits:
    """Training and validation pictures on a GPU that has room for them: 0.2 GB a thousand at 256×256, in 8 bits."""
    need = sum(len(part) * part.pictures[0].nbytes for part in (splits.train, splits.val))
    if not has_room_for(need, device):
        return splits
    return replace(splits, train=splits.train.to(device), val=splits.val.to(device))


class _Saver:
    """Writes a trainer's run to its folder, and reads it back.

    Where the folder lies on a Drive, the run lives in a twin of that folder on the local disk. The twin also keeps the
    state at the end of the best epoch (`best-state.pt`), beside the newest one.
    """

    MAY_CHANGE = ("epochs", "learning_rate")
    STATE, BEST, LAST, HISTORY = FILES = ("state.pt", "best.safetensors", "last.safetensors", "history.json")

    def __init__(self, folder: Path, seconds: float):
        self.folder, self.seconds = folder, seconds
        self.drive = DriveFolder(folder, self.FILES, self.STATE) if lies_on_drive(folder) else None
        self.local = folder if self.drive is None else self.drive.local
        self.state_path, self.best_path = self.local / self.STATE, self.local / self.BEST
        self.last_path, self.history_path = self.local / self.LAST, self.local / self.HISTORY
        self.best_state_path = self.local / "best-state.pt"
        self.saved_at = time.monotonic()
        self.place = folder  # where the newest files are: on the Drive once they have been copied there
        self.last_good = self.best = ""  # when the state was saved, and the best checkpoint
        self.best_loss = math.inf

    @property
    def kept(self) -> str:
        """For an error's message: the state and the best checkpoint that are left after it."""
        state = f"{self.place / self.STATE} ({self.last_good})" if self.last_good else "none yet"
        best = f"{self.place / self.BEST} ({self.best})" if self.best else "none yet"
        own = f"; its own state: {self.best_state_path}" if self.best and self.best_state_path.is_file() else ""
        return f"last good checkpoint: {state}; best: {best}{own}"

    @contextmanager
    def naming_what_is_kept(self) -> Iterator[None]:
        try:
            yield
        except TrainingError as error:
            raise type(error)(f"{error}; {self.kept}") from error

    def restore(self, trainer: Trainer, resume: bool) -> None:
        """Puts the trainer where the run in the folder stopped; does nothing where there is no run."""
        if self.drive is not None and self.drive.nothing_arrived():
            self.place = self.local
        present = [name for name in self.FILES if (self.place / name).exists()]
        if present and not resume:
            raise TrainingError(
                f"{self.place} holds a run already: resume it (resume=True, --resume) or choose another folder"
            )
        if present and self.STATE not in present:
            raise TrainingError(
                f"{self.place} holds {' and '.join(present)}, but no {self.STATE} to go on from, and a run that "
                "begins anew would overwrite that: move it away, or choose another folder"
            )
        if self.drive is not None:
            with self._reporting_write_errors():
                self.drive.open()
        if not present:
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
            best = f" ({self.place / self.BEST} stays as it is)" if self.BEST in present else ""
            raise TrainingError(
                f"{self.place / self.STATE} cannot be read ({reason}); start in another folder{best}"
            ) from error
        self._read_best()
        self._mark_good(trainer)
        self._keep_best(trainer)  # of an epoch whose state was saved just before the run was killed

    def _read_best(self) -> None:
        """Takes epoch and loss of the best checkpoint from its file: it may be of a later epoch than the state."""
        if not self.best_path.is_file():
            return
        try:
            with safe_open(self.best_path, framework="pt") as file:
                metadata = {name: json.loads(value) for name, value in file.metadata().items()}
            self._mark_best(metadata["epoch"], metadata["metrics"]["validation_loss"])
        except (SafetensorError, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise TrainingError(
                f"{self.place / self.BEST} cannot be read ({error}), so that a worse one might take its "
                "place: move it away, then resume"
            ) from error

    def _require_same_run(self, trainer: Trainer, state: dict[str, Any]) -> None:
        ours = trainer.recipe.as_dict() | {"seed": trainer.seed, "pictures": trainer.pictures}
        theirs = Recipe.from_dict(state["recipe"]).as_dict() | {"seed": state["seed"], "pictures": state["pictures"]}
        differing = [name for name in ours if ours[name] != theirs.get(name) and name not in self.MAY_CHANGE]
        if trainer.recipe.decay and ours["epochs"] != theirs["epochs"]:
            differing.append("epochs")  # the learning rate would have been another from the start
        if differing:
            changes = ", ".join(f"{name} was {theirs.get(name)!r}, is {ours[name]!r}" for name in differing)
            raise TrainingError(f"{self.place} holds another run ({changes}); give the same settings or another folder")

    def after_step(self, trainer: Trainer) -> None:
        if self._is_due():
            self.save(trainer)
            self._copy_to_drive()

    def after_epoch(self, trainer: Trainer) -> None:
        is_best = trainer.history["validation_loss"][-1] < self.best_loss
        ended = trainer.epoch == trainer.recipe.epochs
        wanted = self.drive is not None and is_best  # the best's own state
        if ended or wanted or self._is_due() or not self.state_path.is_file():
            self.save(trainer)
        self._keep_best(trainer)
        self._copy_to_drive(at_once=ended)

    def save(self, trainer: Trainer) -> None:
        """Writes all but the best checkpoint."""
        trainer.require_finite()
        self.place = self.local
        writes = [self._write_last, self._write_history, self._write_state]
        if not self.state_path.is_file():  # the state first: a run that is killed between two files can be resumed
            writes.reverse()
        with self._reporting_write_errors():
            for write in writes:
                write(trainer)
        self._mark_good(trainer)

    def _write_last(self, trainer: Trainer) -> None:
        checkpoints.save(self.last_path, trainer.kept, self._metadata(trainer))

    def _write_history(self, trainer: Trainer) -> None:
        with atomic_write(self.history_path) as temporary:
            temporary.write_text(json.dumps(trainer.history), encoding="utf-8")

    def _write_state(self, trainer: Trainer) -> None:
        with atomic_write(self.state_path) as temporary:
            torch.save(trainer.state_dict(), temporary)

    def _keep_best(self, trainer: Trainer) -> None:
        """Saves the generator as the best checkpoint, if an epoch has just ended with the lowest validation loss."""
        if trainer.step_losses or not trainer.epoch:
            return
        if not self.last_path.is_file():  # the run was killed between two files
            self.save(trainer)
        loss = trainer.history["validation_loss"][-1]
        if loss >= self.best_loss:
            return
        with self._reporting_write_errors():
            checkpoints.save(self.best_path, trainer.kept, self._metadata(trainer))
            if self.drive is not None:
                self.best_state_path.unlink(missing_ok=True)
                _link(self.state_path, self.best_state_path)
        self._mark_best(trainer.epoch, loss)

    def stop(self, trainer: Trainer) -> NoReturn:
        self.save(trainer)
        self.hand_over()
        raise Interrupted(self.kept)

    def hand_over(self) -> None:
        """Before a run ends early: copies to the Drive at once what its rate has held back."""
        self._copy_to_drive(at_once=True)

    def _copy_to_drive(self, at_once: bool = False) -> None:
        if self.drive is not None and self.last_good:  # without a good state, the twin may hold another run
            with self._reporting_write_errors():
                self.place = self.folder if self.drive.copy(at_once) else self.local

    def _is_due(self) -> bool:
        return time.monotonic() - self.saved_at >= self.seconds

    def _mark_good(self, trainer: Trainer) -> None:
        self.saved_at = time.monotonic()
        self.last_good = f"epoch {trainer.epoch + 1}, step {len(trainer.step_losses)}"

    def _mark_best(self, epoch: int, loss: float) -> None:
        self.best, self.best_loss = f"epoch {epoch}, validation loss {loss:.4g}", loss

    @contextmanager
    def _reporting_write_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError, RuntimeError) as error:  # each library reports a full disk by its own type
            reason = str(error).splitlines()[0][:160]
            raise TrainingError(
                f"cannot save the run in {self.folder} ({reason}): free some space, then resume; {self.kept}"
            ) from error

    def _metadata(self, trainer: Trainer) -> dict[str, Any]:
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
            "started_from": trainer.started_from,
            "seconds": sum(history["seconds"]),
            "metrics": {curve: values[-1] for curve, values in history.items() if values},
        }


class _Bystander(_Saver):
    """Of the processes that train with the first one, which alone reads and writes the run's folder."""

    def restore(self, trainer: Trainer, resume: bool) -> None:
        """Nothing: the first process tells where it stopped."""

    def after_step(self, trainer: Trainer) -> None:
        """Nothing."""

    def after_epoch(self, trainer: Trainer) -> None:
        """Nothing."""

    def save(self, trainer: Trainer) -> None:
        """Nothing."""


def _link(source: Path, target: Path) -> None:
    """The same file under a second name: a hard link, or a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
