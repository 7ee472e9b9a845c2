"""From a manifest to a training stream: ``mosaic_ray.load``."""
