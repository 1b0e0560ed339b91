import sys

from metabox.cli import main

sys.exit(main())
