"""GAN colorization: gray pictures in, colour pictures out.

Import what you need from its room: `colorize_utils.inference.Colorizer` colorizes, `colorize_utils.training.train`
trains, `colorize_utils.models` holds the networks. Importing the package itself loads nothing else, so that
`python -m colorize_utils --help` answers at once.
"""

__version__ = "0.1.0"
