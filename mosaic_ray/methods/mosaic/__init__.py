"""Mosaic-IT (arXiv 2405.13326, ACL 2025 Findings): several records in one sample, under one meta-instruction."""

from mosaic_ray.methods.mosaic.compose import MosaicMethod

__all__ = ["MosaicMethod"]
