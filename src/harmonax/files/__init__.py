"""Files in, files out: what the commands `harmonax integrate` and `harmonax map` do."""
