"""``python -m bcpd``."""

import sys

from bcpd.cli import main

sys.exit(main())
