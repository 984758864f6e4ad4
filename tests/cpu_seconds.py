"""How much of a processor each test takes, with its fixtures and its ended children: a pytest plugin."""

import os

import pytest


class Plugin:
    """Names the tests that take more than so many seconds, at the end of a run; None names none."""

    def __init__(self, most):
        self.most, self.taken = most, {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self):
        self.begun = _now()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        report.cpu_seconds = _now() - self.begun  # xdist sends it along; that of the last phase counts
        return report

    def pytest_runtest_logreport(self, report):
        self.taken[report.nodeid] = getattr(report, "cpu_seconds", 0.0)

    def pytest_terminal_summary(self, terminalreporter):
        if self.most is None:
            return
        terminalreporter.section(f"tests above {self.most:g} s of a processor")
        for test, seconds in sorted(self.taken.items(), key=lambda pair: -pair[1]):
            if seconds > self.most:
                terminalreporter.line(f"{seconds:6.1f} s  {test}")
        terminalreporter.line(f"{sum(self.taken.values()):6.0f} s  all {len(self.taken)}")


def _now():
    return sum(os.times()[:4])
