"""A distributed, deterministic job that turns an instruction corpus into a better, smaller training set."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mosaic_ray.handoff.loader import load as load

try:
    __version__ = version("mosaic_ray")
except PackageNotFoundError:  # a checkout on the path of a worker, not an installed package
    __version__ = "0.1.0"

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> object:
    """``load`` is imported when it is asked for: the job that makes data sets does not need it."""
    if name == "load":
        from mosaic_ray.handoff.loader import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
