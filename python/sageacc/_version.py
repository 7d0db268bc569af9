"""The version, in one place, which building needs without an import of anything else."""

VERSION = "0.2.0.dev0"
