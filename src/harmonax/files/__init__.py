"""Files in, files out: `harmonax integrate` (integrate.py) and `harmonax map` (map.py). `io` opens the files."""

from ..engine.run import harmonize
from .integrate import FileJob, integrate_file
from .map import MapJob, map_file

__all__ = ["FileJob", "MapJob", "harmonize", "integrate_file", "map_file"]
