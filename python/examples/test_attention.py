import pytest
from triton_attention import KERNEL, attention

import sageacc


@pytest.mark.parametrize("case", sageacc.cases(["1x2/1x333x333x64"], ["float16"]), ids=str)
def test_attention(case):
    sageacc.check(attention, kernel=KERNEL, mode="budget", only=[case])
