"""FLUX image generation on your own machine, behind the API your programs already speak."""

__version__ = "0.1.0"
