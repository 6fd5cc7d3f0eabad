"""`python -m vgen_fast <verb>`."""

import atexit
import sys

from .cli import end_quickly, main

atexit.register(end_quickly)
sys.exit(main())
