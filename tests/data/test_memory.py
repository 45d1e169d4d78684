"""What 1.3 million paths cost: little more than their bytes, in the trainer and in each worker, and seconds."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

MEASURE = textwrap.dedent(
    f"""
    import json, sys, time
    from pathlib import Path
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    from fakes import MadeUpPaths, RandomCrops
    from passl_simsiam.data.loader import Loader

    def peak(pid):
        status = Path(f"/proc/{{pid}}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    start = time.monotonic()
    dataset = MadeUpPaths(int(sys.argv[1]))
    listed = time.monotonic()
    with Loader(dataset, RandomCrops(), batch_size=256, shuffle=True, drop_last=True, seed=0, num_workers=2) as loader:
        batches = loader.epoch(0)
        next(batches)
        first = time.monotonic()
        for _ in range(30):
            next(batches)
        workers = [peak(worker.process.pid) for worker in loader._pool.workers]
    print(json.dumps({{
        "trainer": peak("self"),
        "worker": max(workers),
        "list_seconds": listed - start,
        "start_seconds": first - listed,
        "strings": sum(len(dataset.name(index)) for index in range(0, len(dataset), 1000)) * 1000,
    }}))
    """
)


@pytest.mark.slow
def test_a_million_paths_cost_their_bytes_and_half_again():
    def measure(count):
        return json.loads(subprocess.check_output([sys.executable, "-c", MEASURE, str(count)], text=True))

    few, many = measure(10_000), measure(1_300_000)
    for name, figures in (("10,000", few), ("1.3 million", many)):
        megabytes = {key: f"{value / 1e6:.1f} MB" for key, value in figures.items() if not key.endswith("seconds")}
        print(name, megabytes, {key: f"{value:.2f}" for key, value in figures.items() if key.endswith("seconds")})
    for process in ("trainer", "worker"):
        assert many[process] <= 1.5 * few[process] + many["strings"]
    assert many["list_seconds"] + many["start_seconds"] < 20
