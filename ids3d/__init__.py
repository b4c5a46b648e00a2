"""What every module of ids3d stands on: no Lightning and no experiment in it."""

__version__ = "0.1.0"
