"""What would stop a run, found out before it starts."""

from mosaic_ray.runtime.doctor.checks import examine
from mosaic_ray.runtime.doctor.cluster import Cluster
from mosaic_ray.runtime.doctor.finding import Finding

__all__ = ["Cluster", "Finding", "examine"]
