import subprocess
import sys

import pytest

from neuromix.augment.errors import InputError
from neuromix.experiments.evidence.configs import Decoding, Hybrid, Settings, Transfer


def test_the_command_reads_options_without_torch():
    code = "import sys, neuromix.experiments.evidence.configs; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", [Transfer, Settings, Decoding, Hybrid])
def test_what_all_experiments_share_is_checked_in_each(kind):
    with pytest.raises(InputError, match="steps, validation and test must each be 1 or more"):
        kind(validation=0)
    with pytest.raises(InputError, match="arms magic came; allowed are"):
        kind(arms=("magic",))
