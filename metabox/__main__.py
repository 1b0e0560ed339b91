import sys

from metabox.cli.main import main

sys.exit(main())
