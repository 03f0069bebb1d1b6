"""Files in, files out: `harmonax integrate` (integrate.py) and `harmonax map` (map.py). `io` opens the files."""
