"""passl-train in float64, in which the runs of different numbers of processes can be compared to many digits."""

import sys

from passl_simsiam import runtime

runtime.prepare_environment(threads=1)

import paddle  # noqa: E402

from passl_simsiam.commands.train import main  # noqa: E402

if __name__ == "__main__":
    paddle.set_default_dtype("float64")
    sys.exit(main())
