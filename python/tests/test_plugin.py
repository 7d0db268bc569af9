"""The pytest plugin, in sessions of its own."""

import xml.etree.ElementTree as ET

import pytest
from conftest import PATH

SUITE = """
    import pytest, sageacc

    def right(q, k, v, causal=False):
        return sageacc.emulate(q, k, v, causal=causal)

    def wrong(q, k, v, causal=False):
        return sageacc.emulate(q, k, v, causal=causal, kernel=sageacc.Kernel(variant="rescale-d=none"))

    COMBINATIONS = dict(shapes=["1x2/1x130x130x64"], dtypes=["float16"], distributions=["gauss"])

    @pytest.mark.sageacc(**COMBINATIONS)
    def test_right(sageacc_case, sageacc_check):
        sageacc_check(right, framework="numpy")

    def test_wrong():
        sageacc.check(wrong, framework="numpy", **COMBINATIONS)
"""


@pytest.fixture
def suite(pytester, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", PATH)
    pytester.makepyfile(test_mine=SUITE)
    # As where the package is installed, and only once where it is.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return lambda *args: pytester.runpytest_subprocess("-p", "sageacc._pytest", "-p", "no:cacheprovider", *args)



def test_session(suite, pytester):
    result = suite("-v", "--junitxml=x.xml", "-o", "junit_family=xunit1", "--sageacc-report=out/r.html")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*test_right?1x2:1x130x130x64-float16-full-gauss? PASSED*",
            "*test_right?1x2:1x130x130x64-float16-causal-gauss? PASSED*",
            "*2 of 2 cases fail against sage2-8b-sm90 (bitwise)",
            "*that of --variant rescale-d=none",
            "*4 cases against the emulator, 2 failed*",
            "*report: out*r.html*",
        ]
    )
    # The failure is the test's own: no trace through the package.
    assert "_check.py" not in result.stdout.str()
    page = (pytester.path / "out" / "r.html").read_text()
    assert "rescale-d=none" in page and "130x130x64-float16-causal-gauss" in page
    properties = {}
    for case in ET.parse(pytester.path / "x.xml").iter("testcase"):
        properties[case.get("name")] = [(p.get("name"), p.get("value")) for p in case.iter("property")]
    right = dict(properties["test_right[1x2:1x130x130x64-float16-full-gauss]"])
    assert right["sageacc.ok"] == "true" and right["sageacc.differing"] == "0 of 16640" and right["sageacc.kernel"] == "sage2-8b-sm90"
    assert [v for n, v in properties["test_wrong"] if n == "sageacc.ok"] == ["false", "false"]


def test_without_report(suite, pytester):
    result = suite("-k", "right")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*2 cases against the emulator, 0 failed*"])
    assert not list(pytester.path.glob("**/*.html"))
