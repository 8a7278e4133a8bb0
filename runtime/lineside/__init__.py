"""lineside: camera frames in, decisions out, on the box beside the line."""

__version__ = "0.1.0"
