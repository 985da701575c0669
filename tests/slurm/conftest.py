"""The tests here use what the other tests have written."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
