"""What the tests of experiments share."""

import pytest

from neuromix.experiments.frame import verdict


@pytest.fixture(autouse=True, scope="session")
def few_draws():
    """A bootstrap that is quick, with draws enough for a correction for ten comparisons."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdict, "DRAWS", 1000)
        yield
