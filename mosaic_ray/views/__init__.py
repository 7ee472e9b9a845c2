"""Views: the same samples in the columns that a trainer reads.

A *text view* (:mod:`.text`) shows the conversation beside its lineage. One of them is written by a run, and every
other view is made of that: another text view, or one of tokens (:mod:`.derived`), which holds what a trainer computes
with and nothing beside it.
"""

from __future__ import annotations

from mosaic_ray.views.derived import Derived, DerivedView, derived_view
from mosaic_ray.views.text import LINEAGE, REJECT_SCHEMA, ViewSchema

__all__ = ["LINEAGE", "REJECT_SCHEMA", "Derived", "DerivedView", "ViewSchema", "derived_view"]
