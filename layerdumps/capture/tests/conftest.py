import sys
from pathlib import Path

# The tests run from a checkout, without an installation.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
