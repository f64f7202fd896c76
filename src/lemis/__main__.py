"""``python -m lemis`` is ``lemis``."""

import sys

from lemis.cli import main

if __name__ == "__main__":
    sys.argv[0] = "lemis"  # what records of runs call the command
    main()
