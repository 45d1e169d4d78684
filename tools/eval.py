"""`passl-eval` from a checkout, for launchers that take a file."""

import sys

from passl_simsiam.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
