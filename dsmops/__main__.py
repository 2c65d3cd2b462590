"""`python -m dsmops` is the `dsmops` command."""

import sys

from dsmops.cli.main import main

sys.exit(main())
