"""Forms with files, which FastAPI wants the version of; the tests send none."""

__version__ = "0.0.20"
