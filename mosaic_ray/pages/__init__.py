"""The pages of a data set that people read: its card ``README.md``, its ``report.html``, and the card of a view."""

from mosaic_ray.pages.publish import publish_pages, publish_view_card

__all__ = ["publish_pages", "publish_view_card"]
