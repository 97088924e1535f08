"""The submission's hyperparameters, one frozen recipe a model, the switches for its flaws; and one recipe beyond it.

`dataclasses.replace(GAN_L1, epochs=5)` makes a variant; to add a recipe, add one here and to `RECIPES`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from colorize_utils.architectures import ARCHITECTURES

# What may oppose a generator, and the options of a recipe that have an effect with it, and not with every one.
ADVERSARIES = {
    "discriminator": ("lambda_adv", "discriminator_sigmoid"),  # binary cross-entropy
    "critic": ("lambda_adv", "n_critic", "critic_batch_size", "lambda_gp"),  # Wasserstein
    "none": (),
}
RENAMED = {"average": "ema_decay"}  # names in checkpoints that earlier versions wrote → those of today


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run but the pictures, the seed and the machine."""

    name: str
    generator: str = "unet"  # the architecture's name in ARCHITECTURES
    adversary: str = "discriminator"  # a name in ADVERSARIES
    reconstruction: str = "l1"  # "l1" or "mse"
    lambda_rec: float = 0.99  # the submission's weights: reconstruction rules, the adversarial term sharpens
    lambda_adv: float = 0.01
    lambda_dist: float = 1.0  # of the cross-entropy of a distribution over colours, where the generator predicts one

    epochs: int = 350
    size: int = 256
    width: float = 1.0
    # "4 batches - 255 images" in the submission are its epoch: 1,020 pictures, the official training split. A step
    # takes 0.7 GB a picture at 256×256 in fp32, the critic's penalty included: 255 at once would take 180 GB, 16 some
    # 13, and 8 fit a 16 GB T4 in every precision. Adding up gradients over smaller batches would give the
    # submission's 4 steps an epoch, but not its batch statistics.
    batch_size: int = 8
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)

    # The critic of WGAN (Gulrajani et al. 2017, algorithm 1): updates a generator step, each on random pictures of its
    # own, and the weight of the gradient penalty.
    n_critic: int = 1
    critic_batch_size: int = 64
    lambda_gp: float = 10.0

    # Switches. The defaults are the submission's; each of the others mends a flaw of it.
    discriminator_sigmoid: bool = True  # False: logits, as BCEWithLogits expects them
    bounded: bool = False  # True: the generator ends in a sigmoid, in WGAN instead of batch normalization and ReLU
    keep_luminance: bool = False  # True: the network's chroma on the given gray, which is not predicted again
    decay: bool = False  # True: the learning rate falls linearly to 0 over the second half, as in pix2pix's code
    flip: bool = False  # True: about half of the training pictures mirrored left to right, anew in each epoch

    # What helps a network that has few pictures to learn from; the submission has none of it.
    augment: bool = False  # True: training pictures turned, scaled, shifted, lit otherwise, anew in each epoch
    dropout: float = 0.0  # share of features dropped at the end of a U-Net's blocks
    ema_decay: float = (
        0.0  # decay of the moving average of the generator's weights that is kept in their place; 0: none
    )

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
        for option in _options_without_effect(self.generator, self.adversary):
            if getattr(self, option) != getattr(Recipe, option):  # the default
                raise self._without_effect(option)
        if not self.keep_luminance and ARCHITECTURES[self.generator].distribution:
            raise ValueError(f"recipe {self.name}: a distribution over chroma cannot but keep_luminance")
        if self.size % 32:
            raise ValueError(f"recipe {self.name}: size must be a multiple of 32, got {self.size}")
        if self.batch_size == 1 and self.size == 32:
            raise ValueError(f"recipe {self.name}: batch normalization needs a batch_size of 2 or more at size 32")
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
        """A variant with what somebody asked for by name. Unlike `dataclasses.replace` it also refuses an option
        without effect where its value is the default. Raises ValueError."""
        for option in options:
            if option in _options_without_effect(self.generator, self.adversary):
                raise self._without_effect(option)
        return replace(self, **options)

    def learning_rate_in(self, epoch: int) -> float:
        """Adam's learning rate in an epoch, counted from 0."""
        if not self.decay:
            return self.learning_rate
        return self.learning_rate * min(1.0, 2 * (1 - epoch / self.epochs))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """A recipe from what `as_dict` gave, now or in an earlier version, which lacks what was added since and may
        have set options without effect."""
        values = {RENAMED.get(name, name): value for name, value in values.items()}
        parts = (values.get("generator", cls.generator), values.get("adversary", cls.adversary))
        if parts[0] in ARCHITECTURES and parts[1] in ADVERSARIES:
            for option in _options_without_effect(*parts):
                values.pop(option, None)
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self) | {"betas": list(self.betas)}


def _options_without_effect(generator: str, adversary: str) -> list[str]:
    """What some recipes have, but not those of this generator and this adversary."""
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
# Beyond the submission, and what the bundled checkpoint was trained with: for few pictures and little time.
DISTRIBUTION = Recipe(
    "distribution",
    generator="distribution-unet",
    adversary="none",  # it is the distribution that keeps colours from fading, and says by how much they did
    lambda_rec=10.0,  # of the distribution's mean, beside a cross-entropy of some nats
    epochs=120,
    size=64,
    width=0.5,
    batch_size=32,
    learning_rate=1e-3,  # a short run has no time for small steps; it falls to 0
    betas=(0.9, 0.999),  # Adam's own: a momentum of 0.5 is for two networks that chase each other
    keep_luminance=True,
    decay=True,
    flip=True,
    augment=True,
    dropout=0.2,
    ema_decay=0.999,  # over the last thousand steps
)
RECIPES = {recipe.name: recipe for recipe in (GAN_L1, GAN_MSE, WGAN_GP, DISTRIBUTION)}
