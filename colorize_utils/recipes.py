"""The submission's hyperparameters, one frozen recipe for each model; switches for its flaws; one recipe beyond it.

`dataclasses.replace(GAN_L1, epochs=5)` makes a variant; to add a recipe, add one here and to `RECIPES`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from colorize_utils.generator_registry import ARCHITECTURES

# What a generator may be trained against, with the options of a recipe that have an effect only with some of these.
ADVERSARIES = {
    "discriminator": ("lambda_adv", "discriminator_sigmoid"),  # binary cross-entropy
    "critic": ("lambda_adv", "n_critic", "critic_batch_size", "lambda_gp"),  # Wasserstein
    "none": (),
}
SMALL_SHARE = 0.5  # share of the epochs in which a generator of several sizes sees small pictures alone
RENAMED = {"average": "ema_decay"}  # a field's name in the checkpoints of earlier versions → its name today


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run, except the pictures, the seed and the machine.

    The defaults are GAN-L1's. An option that has no effect with the generator and the adversary must keep its default.

    Attributes:
        name: Its name in `RECIPES`, on the command line and in checkpoints.
        generator: The architecture's name in `ARCHITECTURES`.
        adversary: A name in `ADVERSARIES`.
        reconstruction: The reconstruction term, "l1" or "mse".
        lambda_rec: Weight of the reconstruction term.
        lambda_adv: Weight of the adversarial term.
        lambda_dist: Weight of the cross-entropy, where the generator predicts a distribution over colours.
        places: How many random places of each picture a distribution's losses are taken at, which spares most of the
            time of a large palette; 0: all, and the reconstruction term at full resolution.
        epochs: Passes through the training pictures.
        size: Pixels a side of the square training pictures; a multiple of 32. A generator of several sizes also sees
            them smaller: `sizes_in`.
        width: Scale of every layer of the networks; 1.0 is the original.
        batch_size: Pictures in a step.
        learning_rate: Adam's, for all networks.
        betas: Adam's, for all networks.
        weight_decay: Share of its kernels that the generator loses in a step, relative to the learning rate (AdamW).
        n_critic: Updates of the critic in each generator step, each on random training pictures of its own.
        critic_batch_size: Pictures in an update of the critic.
        lambda_gp: Weight of the critic's gradient penalty.
        discriminator_sigmoid: The discriminator ends in a sigmoid; False: logits, as BCEWithLogits expects them.
        bounded: The generator ends in a sigmoid, in WGAN instead of batch normalization and ReLU.
        keep_luminance: The generator's chroma on the given gray, which is not predicted again.
        decay: The learning rate falls linearly to 0 over the second half of the epochs, as in pix2pix's code.
        flip: About half of the training pictures are mirrored left to right, chosen anew in each epoch.
        augment: Training pictures are turned, scaled, shifted and exposed differently, anew in each epoch.
        surroundings: Some training pictures get gray or foreign surroundings, are empty or out of focus, anew in each
            epoch, so that what is no flower stays calm.
        hints: Once the pictures have their working sizes, some come with the colours of some places, which the
            generator is to spread (data/hints.py).
        degrade: The gray version of some training pictures is made to look like an old print, anew in each epoch, once
            the pictures have their working sizes. For a network that keeps chroma alone: one that predicts luminance,
            too, learns to clean and brighten it.
        dropout: Share of features dropped at the end of a U-Net's blocks, in [0, 1).
        ema_decay: Decay of the exponential moving average of the generator's weights, which takes their place in
            checkpoints, in [0, 1); 0: no average.

    Raises:
        ValueError: A value is out of its range, or an option that would have no effect is set.
    """

    name: str
    generator: str = "unet"
    adversary: str = "discriminator"
    reconstruction: str = "l1"
    lambda_rec: float = 0.99  # the submission's weights: the reconstruction term rules, the adversarial one sharpens
    lambda_adv: float = 0.01
    lambda_dist: float = 1.0
    places: int = 0

    epochs: int = 350
    size: int = 256
    width: float = 1.0
    # The submission's epoch is "4 batches - 255 images": 1,020 pictures, the official training split. A step takes
    # 0.7 GB a picture at 256×256 in fp32, the critic's penalty included: 255 pictures at once would take 180 GB, 16
    # about 13 GB, and 8 fit a 16 GB T4 in every precision. Gradient accumulation over smaller batches would give the
    # submission's 4 steps an epoch, but not its batch statistics.
    batch_size: int = 8
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 0.0

    # The critic of WGAN: Gulrajani et al. 2017, "Improved Training of Wasserstein GANs", algorithm 1.
    n_critic: int = 1
    critic_batch_size: int = 64
    lambda_gp: float = 10.0

    # Switches. The defaults are the submission's; each other value mends one of its flaws.
    discriminator_sigmoid: bool = True  # True: sigmoid and BCEWithLogits; False: logits
    bounded: bool = False  # True: colour in [0, 1] by a sigmoid
    keep_luminance: bool = False  # True: the given luminance is not predicted again
    decay: bool = False  # True: the learning rate falls to 0 in the second half
    flip: bool = False  # True: pictures mirrored at random

    # What helps a network that has few pictures to learn from; the submission has none of it.
    augment: bool = False  # True: turned, scaled, shifted, exposed differently
    surroundings: bool = False  # True: some with gray or foreign surroundings, empty, or out of focus
    hints: bool = False  # True: some with the colours of some places given
    degrade: bool = False  # True: the gray version of some looks like an old print
    dropout: float = 0.0
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        choices = {
            "generator": tuple(ARCHITECTURES),
            "adversary": tuple(ADVERSARIES),
            "reconstruction": ("l1", "mse"),
        }
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"recipe {self.name}: {field} must be one of {allowed}, got {getattr(self, field)!r}")
        for field in ("epochs", "size", "batch_size", "n_critic", "critic_batch_size", "learning_rate", "width"):
            if getattr(self, field) <= 0:
                raise ValueError(f"recipe {self.name}: {field} must be positive, got {getattr(self, field)}")
        for field in ("dropout", "ema_decay"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"recipe {self.name}: {field} must lie in [0, 1), got {getattr(self, field)}")
        for field in ("places", "weight_decay"):
            if getattr(self, field) < 0:
                raise ValueError(f"recipe {self.name}: {field} must not be negative, got {getattr(self, field)}")
        for option in _options_without_effect(self.generator, self.adversary):
            if getattr(self, option) != getattr(Recipe, option):  # the default
                raise self._without_effect(option)
        if not self.keep_luminance and ARCHITECTURES[self.generator].distribution:
            raise ValueError(
                f"recipe {self.name}: a distribution over chroma has no luminance: keep_luminance must be True"
            )
        if self.size % 32:
            raise ValueError(f"recipe {self.name}: size must be a multiple of 32, got {self.size}")
        for field in ("batch_size", "critic_batch_size"):
            if getattr(self, field) == 1 and self.needs_two_pictures:
                raise ValueError(
                    f"recipe {self.name}: batch normalization needs a {field} of 2 or more at size {self.size}"
                )
        object.__setattr__(self, "betas", tuple(self.betas))  # a recipe read back from JSON has a list there

    def _without_effect(self, option: str) -> ValueError:
        having = [
            name
            for name, recipe in RECIPES.items()
            if option not in _options_without_effect(recipe.generator, recipe.adversary)
        ]
        return ValueError(
            f"recipe {self.name}: {option} would have no effect; leave it out, or take a recipe that has it: "
            f"{', '.join(having)}"
        )

    def with_options(self, **options: Any) -> "Recipe":
        """A variant with the options that somebody named.

        Unlike `dataclasses.replace`, it refuses an option without effect even where the value is the default.

        Args:
            options: New values, by field.

        Returns:
            The variant.

        Raises:
            ValueError: An option would have no effect, or a value is out of its range.
        """
        for option in options:
            if option in _options_without_effect(self.generator, self.adversary):
                raise self._without_effect(option)
        return replace(self, **options)

    def learning_rate_in(self, epoch: int) -> float:
        """Adam's learning rate in an epoch; epochs are counted from 0."""
        if not self.decay:
            return self.learning_rate
        return self.learning_rate * min(1.0, 2 * (1 - epoch / self.epochs))

    @property
    def working_sizes(self) -> tuple[int, ...]:
        """The sizes at which the generator predicts, in pixels a side: `size`, and where it has several, ⅔ of it."""
        if not ARCHITECTURES[self.generator].multiscale:
            return (self.size,)
        return _multiple_of_32(2 / 3 * self.size), self.size

    @property
    def needs_two_pictures(self) -> bool:
        """Whether the deepest features of the smallest pictures have one place: a batch norm then averages pictures."""
        halvings = 6 if ARCHITECTURES[self.generator].multiscale else 5
        smallest = min(*self.sizes_in(0), *self.sizes_in(self.epochs - 1))
        return smallest <= 2**halvings

    def sizes_in(self, epoch: int) -> tuple[int, ...]:
        """The sizes at which pictures are shown to the generator in an epoch, one drawn for each step.

        A generator of several sizes begins with half the size, which spares most of the time in which it learns what
        flowers are (progressive resizing, as in Karras et al. 2018, "Progressive Growing of GANs"), and goes on with
        its working sizes.

        Args:
            epoch: Counted from 0.

        Returns:
            Pixels a side, multiples of 32.
        """
        return (_multiple_of_32(self.size / 2),) if self.is_small_in(epoch) else self.working_sizes

    def is_small_in(self, epoch: int) -> bool:
        """Whether pictures are smaller in an epoch than the generator's working sizes; epochs are counted from 0."""
        return ARCHITECTURES[self.generator].multiscale and epoch < round(SMALL_SHARE * self.epochs)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """A recipe from what `as_dict` returned, in this version or an earlier one.

        Fields that an earlier version did not have get their defaults, names that it wrote are translated (`RENAMED`),
        and options that it accepted though they had no effect are dropped.

        Args:
            values: Field → value.

        Returns:
            The recipe.

        Raises:
            ValueError: A value is out of its range.
            TypeError: There is no such field, or `name` is missing.
        """
        values = {RENAMED.get(name, name): value for name, value in values.items()}
        parts = (values.get("generator", cls.generator), values.get("adversary", cls.adversary))
        if parts[0] in ARCHITECTURES and parts[1] in ADVERSARIES:
            for option in _options_without_effect(*parts):
                values.pop(option, None)
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, ready for JSON."""
        return asdict(self) | {"betas": list(self.betas)}


def _multiple_of_32(pixels: float) -> int:
    return max(32, 32 * round(pixels / 32))


def _options_without_effect(generator: str, adversary: str) -> list[str]:
    """The options that have an effect with some generators and adversaries, but not with these two."""
    sometimes = [
        *(option for options in ADVERSARIES.values() for option in options),
        *(option for architecture in ARCHITECTURES.values() for option in architecture.recipe_options),
    ]
    here = {*ADVERSARIES[adversary], *ARCHITECTURES[generator].recipe_options}
    return [option for option in dict.fromkeys(sometimes) if option not in here]


GAN_L1 = Recipe("gan-l1")
GAN_MSE = Recipe("gan-mse", reconstruction="mse")
WGAN_GP = Recipe(
    "wgan",
    generator="wgan-unet",
    adversary="critic",
    reconstruction="mse",
    lambda_rec=0.95,
    lambda_adv=0.05,
    epochs=21,
    # The submission's section on optimizers gives every model 2e-4 and (0.5, 0.999); the algorithm that its WGAN
    # section quotes gives these, and a momentum of 0 is what keeps a critic with a penalty stable.
    learning_rate=1e-4,
    betas=(0.0, 0.9),
    n_critic=2,
)
# Beyond the submission: for few pictures and little time.
DISTRIBUTION = Recipe(
    "distribution",
    generator="distribution-unet",
    adversary="none",  # the distribution keeps colours from fading, and tells by how much its mean did
    lambda_rec=10.0,  # on the distribution's mean, beside a cross-entropy of several nats
    epochs=120,
    size=64,
    width=0.5,
    batch_size=32,
    learning_rate=1e-3,  # a short run has no time for small steps; the rate falls to 0
    betas=(0.9, 0.999),  # Adam's own: a momentum of 0.5 is for two networks that are trained against each other
    keep_luminance=True,
    decay=True,
    flip=True,
    augment=True,
    dropout=0.2,
    ema_decay=0.999,  # averages over about the last thousand steps
)
# What the bundled checkpoint was trained with: the same for photographs of real size, and of more than flowers.
MULTISCALE = replace(
    DISTRIBUTION,
    name="multiscale",
    epochs=88,
    generator="multiscale-unet",
    size=192,
    places=384,  # of the 9,216 that a picture of 192×192 has
    dropout=0.1,
    weight_decay=0.02,
    surroundings=True,
    hints=True,
    degrade=True,
)
RECIPES = {recipe.name: recipe for recipe in (GAN_L1, GAN_MSE, WGAN_GP, DISTRIBUTION, MULTISCALE)}
