"""Shared fixtures. Paddle's environment is prepared here, before any test module imports paddle."""

from __future__ import annotations

from pathlib import Path

import pytest

from passl_simsiam.runtime import prepare_environment

prepare_environment()

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the checkout; tests that need it are skipped where it is absent."""
    folder = ROOT.parent / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip("needs the folder of reference data (../shared), which a user's clone does not have")
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT
