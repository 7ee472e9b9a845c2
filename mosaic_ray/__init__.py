"""A distributed, deterministic job that turns an instruction corpus into a better, smaller training set."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("mosaic_ray")
except PackageNotFoundError:  # a checkout on the path of a worker, not an installed package
    __version__ = "0.1.0"

__all__ = ["__version__"]
