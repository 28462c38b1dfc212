"""Turn an archive of whole-slide images into small, verified summary slides."""

__version__ = "0.1.0"
