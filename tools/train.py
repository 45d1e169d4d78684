"""`passl-train` from a checkout, for launchers that take a file."""

import sys

from passl_simsiam.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
