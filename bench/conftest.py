"""The option of the pytest-benchmark cases."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --preset."""
    parser.getgroup("pepnet_infer").addoption("--preset", default="seed", help="seed, kuaishou or paper")
