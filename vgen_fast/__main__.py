"""`python -m vgen_fast <verb>`."""

import sys

from .cli import main

sys.exit(main())
