"""The pytest plugin: it is loaded by itself where sageacc is installed.

Every case that `sageacc.check` runs in a test adds properties to the test (JUnit XML
shows them) and a line to the summary. `--sageacc-report FILE.html` writes the
report of all cases, with explanations of those that differ.

    @pytest.mark.sageacc(shapes=["1x2/2x256x256x64"], masks=["full", "causal"])
    def test_mine(sageacc_case, sageacc_check):
        sageacc_check(my_attention, kernel="sage2-8b-sm90")

runs a test for each case, under its name.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Generator, List, Optional

import pytest

if TYPE_CHECKING:
    from ._check import CaseResult, Report
    from ._kernel import Kernel

_NAME = "sageacc-plugin"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --sageacc-report."""
    group = parser.getgroup("sageacc", "kernels against the emulator")
    group.addoption(
        "--sageacc-report", metavar="FILE", help="write FILE.html, a report of all cases that sageacc.check ran (one file a kernel)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Makes the marker known and the collector of results."""
    config.addinivalue_line("markers", "sageacc(**combinations): parametrises sageacc_case with sageacc.cases(**combinations)")
    config.pluginmanager.register(_Plugin(config), _NAME)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each case of the marker."""
    if "sageacc_case" not in metafunc.fixturenames:
        return
    from ._cases import cases

    marker = metafunc.definition.get_closest_marker("sageacc")
    metafunc.parametrize("sageacc_case", cases(**marker.kwargs) if marker else cases(), ids=str)


@pytest.fixture
def sageacc_check(request: pytest.FixtureRequest) -> Callable[..., "Report"]:
    """`sageacc.check`, of the test's own case if it has a sageacc_case."""
    from ._check import check

    def run(fn: Callable[..., Any], **kwargs: Any) -> "Report":
        __tracebackhide__ = True
        if "sageacc_case" in request.fixturenames:
            kwargs.setdefault("only", [request.getfixturevalue("sageacc_case")])
        return check(fn, **kwargs)

    return run


class _Plugin:
    """What is heard of the cases of a session."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.cases = self.failed = 0
        self.written: List[Path] = []
        self.problem = ""
        self._item: Optional[pytest.Item] = None
        # In a process of pytest-xdist, the folder that the first process made.
        worker = getattr(config, "workerinput", None)
        self._worker = worker is not None
        self._folder: Optional[Path] = None
        if worker is not None:
            self._folder = Path(worker["sageacc"]) if worker["sageacc"] else None
        elif config.getoption("--sageacc-report"):
            self._folder = Path(tempfile.mkdtemp(prefix="sageacc-"))

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tells pytest-xdist's processes where dumps go."""
        node.workerinput["sageacc"] = "" if self._folder is None else str(self._folder)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        """Listens during a test."""
        from ._check import listener

        self._item = item
        token = listener.set(self._hear)
        yield
        listener.reset(token)

    def _hear(self, result: "CaseResult", kernel: "Kernel") -> None:
        assert self._item is not None
        c = result.comparison
        emulated, actual, d = c.emulated_vs_reference, c.actual_vs_reference, c.difference
        assert actual is not None and d is not None
        self._item.user_properties += [
            ("sageacc.case", str(result.case)),
            ("sageacc.kernel", str(kernel)),
            ("sageacc.ok", str(result.ok).lower()),
            ("sageacc.differing", f"{d.mismatched} of {d.elements}"),
            ("sageacc.max_ulp", str(d.max_ulp)),
            ("sageacc.emulated_rel_l1", f"{emulated.rel_l1:.6g}"),
            ("sageacc.actual_rel_l1", f"{actual.rel_l1:.6g}"),
        ]
        if self._folder is not None:
            name = f"{self._item.name} {result.case}" if str(result.case) not in self._item.name else self._item.name
            of_kernel = self._folder / hashlib.sha256(str(kernel).encode()).hexdigest()[:16]
            of_kernel.mkdir(exist_ok=True)
            (of_kernel / "kernel").write_text("\n".join(kernel.flags()), encoding="utf-8")
            (of_kernel / result.mode).touch()
            c.save_dump(of_kernel / f"{hashlib.sha256((self._item.nodeid + name).encode()).hexdigest()[:16]}.safetensors", name)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Counts the cases, those of other processes too."""
        if report.when == "call":
            said = [value for key, value in report.user_properties if key == "sageacc.ok"]
            self.cases += len(said)
            self.failed += said.count("false")

    def pytest_sessionfinish(self) -> None:
        """Writes the report."""
        if self._worker or self._folder is None:
            return
        from ._binary import SageaccError, run_command
        from ._check import CHANGES

        target = Path(self.config.getoption("--sageacc-report"))
        kernels = sorted(self._folder.iterdir())
        try:
            for i, folder in enumerate(kernels):
                flags = (folder / "kernel").read_text(encoding="utf-8").splitlines()
                page = target if len(kernels) == 1 else target.with_name(f"{target.stem}-{i}{target.suffix}")
                result = folder / "result.json"
                dumps = sorted(str(p) for p in folder.glob("*.safetensors"))
                changes = max(n for mode, n in CHANGES.items() if (folder / mode).exists())
                run_command(["compare", *dumps, *flags, "--per-head", "--explain", f"--explain-changes={changes}", "--format", "json", "-o", str(result)])
                page.parent.mkdir(parents=True, exist_ok=True)
                run_command(["report", str(result), "-o", str(page)])
                self.written.append(page)
        except (SageaccError, OSError) as e:
            self.problem = str(e)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """One line of all cases."""
        if self.cases:
            terminalreporter.write_sep("-", "sageacc")
            terminalreporter.write_line(f"{self.cases} cases against the emulator, {self.failed} failed")
            for page in self.written:
                terminalreporter.write_line(f"report: {page}")
        if self.problem:
            terminalreporter.write_line(f"sageacc: no report: {self.problem}")
