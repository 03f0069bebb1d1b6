"""Files in, files out: `harmonax integrate`, `map` and `counts`, each in the file of its name; `io` opens files."""

from ..engine.run import harmonize
from .counts import CountsJob, correct_counts_file
from .integrate import FileJob, integrate_file
from .map import MapJob, map_file

__all__ = ["CountsJob", "FileJob", "MapJob", "correct_counts_file", "harmonize", "integrate_file", "map_file"]
