import pytest
from triton_attention import KERNEL, forgets_to_rescale

import sageacc


@pytest.mark.parametrize("case", sageacc.cases(["1x2/1x333x333x64"], ["float16"], distributions=["gauss"]), ids=str)
def test_broken(case):
    sageacc.check(forgets_to_rescale, kernel=KERNEL, mode="budget", only=[case])
