"""The released sageattn, bit for bit: live on an H100 or H200, else as an H200 returned it."""

from pathlib import Path

import pytest

import sageacc

try:
    from sageattention import sageattn
except ImportError:
    sageattn = None

attention = sageacc.recorded(Path(__file__).parent / "recorded" / "sageattn.safetensors", sageattn)
CASES = sageacc.cases(["1x2/1x333x333x64"], ["float16"], distributions=["gauss", "outliers"])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sageattn(case):
    sageacc.check(attention, kernel="sage2-8b-sm90", only=[case])


def test_that_a_wrong_claim_fails():
    with pytest.raises(sageacc.CheckFailed, match=r"bit for bit, that of --pv-accum fp32\+fp32"):
        sageacc.check(attention, kernel=sageacc.Kernel("sage2-8b-sm90", pv_accum="fp32"), only=CASES)
