"""How fast the package is, against what one would use instead: measured in one process, variants in turns."""
