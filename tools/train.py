"""`passl-train` from a checkout, for launchers that take a file."""

import sys

from passl_simsiam.cli import train

if __name__ == "__main__":
    sys.exit(train())
