"""Images in, one .beton out."""

from unicscale.data.pack.writing import pack

__all__ = ["pack"]
