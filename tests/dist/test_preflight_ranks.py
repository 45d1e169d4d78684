"""passl-doctor on two ranks: it is well where they agree, and names the rank that does not."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "configs/simsiam_r18_pt_digits.yaml"
#: Rank 1 is given another seed, as a node with an old copy of the recipe would have.
MISMATCH = """
    import os
    from passl_simsiam.commands import doctor

    def main(argv):
        unlike = os.environ["RECIPES"] == "unlike" and os.environ["PADDLE_TRAINER_ID"] == "1"
        return doctor.main([*argv, "Global.seed=7"] if unlike else argv)
"""
DRIVER = """
    import argparse, sys
    from passl_simsiam.commands.launch import launch
    launch("one_rank", argparse.Namespace(nproc=2, argv=sys.argv[1:]), None)
"""


@pytest.mark.parametrize("recipes", ["alike", "unlike"])
def test_ranks_with_recipes(tmp_path: Path, recipes: str) -> None:
    (tmp_path / "one_rank.py").write_text(textwrap.dedent(MISMATCH))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PADDLE_")}
    environment |= {"PYTHONPATH": str(tmp_path), "RECIPES": recipes}
    command = [sys.executable, "-c", textwrap.dedent(DRIVER), "-c", str(RECIPE), "-o", "Global.device=cpu"]
    command += ["Model.backbone.width=4", f"Global.output_dir={tmp_path / 'run'}"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400, check=False)
    assert "all-reduce of 16 MB over 2 ranks" in done.stdout
    assert not (tmp_path / "run").exists()
    if recipes == "alike":
        assert done.returncode == 0, done.stdout + done.stderr
        assert "1433 images, 22 steps, on all 2 rank(s)" in done.stdout
    else:
        assert done.returncode == 2, done.stdout + done.stderr
        assert "error: preflight: recipe: differs on every rank" in done.stdout
        assert "1433 images" not in done.stdout  # nothing was built
