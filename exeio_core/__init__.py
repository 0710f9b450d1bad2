"""exeio: a process supervisor with a REST API, in Python's standard library alone."""

__version__ = "1.0.0"
