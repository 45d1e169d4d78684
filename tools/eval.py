"""`passl-eval` from a checkout, for launchers that take a file."""

import sys

from passl_simsiam.cli import evaluate

if __name__ == "__main__":
    sys.exit(evaluate())
