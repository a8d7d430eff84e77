"""`python -m benchmarks` is `make bench`: all ratios on this machine, into docs/performance.md."""

import sys

from benchmarks.bench import main

sys.exit(main())
