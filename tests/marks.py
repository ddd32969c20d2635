"""Marks that several test files share."""

from functools import partial

import pytest

slowly = partial(pytest.param, marks=pytest.mark.slow)  # a case of `parametrize` for `make slow` alone
