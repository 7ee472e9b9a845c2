"""The two pages of a data set that people read: its card ``README.md`` and its ``report.html``."""

from mosaic_ray.pages.publish import publish_pages

__all__ = ["publish_pages"]
