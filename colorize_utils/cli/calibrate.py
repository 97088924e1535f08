"""`calibrate`: teaches a trained checkpoint to tell pictures that are none of its kind."""

import argparse
from pathlib import Path

from colorize_utils.cli.options import add_data_options, training_splits

DESCRIPTION = (
    "Teach a checkpoint of the recipe multiscale to tell pictures that are none of its kind, from pictures of other "
    "things. Give the options that it was trained with: pictures that it has not seen decide where a warning begins."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `calibrate` to its parser."""
    parser.add_argument("checkpoint", help="a run's best.safetensors or last.safetensors")
    parser.add_argument("--unknown", type=Path, required=True, help="a folder of pictures of other things")
    parser.add_argument("--check", type=Path, help="another such folder, by which the result is measured")
    parser.add_argument("-o", "--output", type=Path, help="the file to write (default: the checkpoint itself)")
    add_data_options(parser)
    parser.add_argument("--pool", action="store_true", help="as in the training")
    parser.add_argument("--extra", type=Path, help="as in the training")
    parser.add_argument("--drop-gray", action="store_true", help="as in the training")
    parser.add_argument("--crop", action="store_true", help="as in the training")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Fits a checkpoint's unfamiliarity, writes it, and prints how well it tells; returns the exit status."""
    from colorize_utils.checkpoints import load_generator, save
    from colorize_utils.errors import CheckpointError
    from colorize_utils.inference import familiarity
    from colorize_utils.multiscale import MultiscaleUNet

    loaded = load_generator(options.checkpoint, progress=False)
    network = loaded.network
    if not isinstance(network, MultiscaleUNet):
        raise CheckpointError(
            f"{loaded.name} is a {loaded.architecture}; only a multiscale-unet can tell what it knows"
        )
    splits = training_splits(options, loaded.size)
    size = min(network.side_lengths)

    familiarity.fit(
        network,
        familiarity.grays(splits.train, size),
        familiarity.grays(splits.val, size),
        familiarity.unknown_pictures(options.unknown, size),
    )
    output = options.output or Path(options.checkpoint)
    save(output, network, loaded.metadata)
    print(f"written: {output}")
    for folder in [options.unknown, *([options.check] if options.check else [])]:
        told = familiarity.check(
            network, familiarity.grays(splits.val, size), familiarity.unknown_pictures(folder, size)
        )
        print(
            f"{folder}: AUC {told.auc:.3f} against {len(splits.val)} pictures held back; warned of "
            f"{100 * told.unknown_warned:.0f} % of these, and of {100 * told.known_warned:.1f} % of those"
        )
    return 0
