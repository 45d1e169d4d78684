"""passl-train in float64, in which the runs of different numbers of processes can be compared to many digits."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from passl_simsiam import runtime

runtime.prepare_environment(threads=1)

import paddle  # noqa: E402

from passl_simsiam.commands import train  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    paddle.set_default_dtype("float64")
    return train.main(argv)


if __name__ == "__main__":
    sys.exit(main())
