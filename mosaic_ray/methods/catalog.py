"""Every method by its name: the only place that knows them all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel

from mosaic_ray.methods.mosaic import MosaicMethod

METHODS: Final[Mapping[str, type[BaseModel]]] = {"mosaic-it": MosaicMethod}
