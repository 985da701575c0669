"""One line per file of tests as soon as it is through, also when several processes run them."""

import time
from collections import Counter, defaultdict

import pytest


class ByFile:
    """Counts outcomes by file, and prints a file's line with the last of its tests."""

    def __init__(self, config):
        self.config, self.begun = config, time.monotonic()
        self.left, self.outcomes, self.seconds = Counter(), defaultdict(Counter), Counter()

    def pytest_collection_finish(self, session) -> None:  # one process
        self._expect([item.nodeid for item in session.items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids) -> None:  # each process of several: all collect the same
        self._expect(ids)

    def _expect(self, ids: list[str]) -> None:
        if ids:
            self.left = Counter(map(_file, ids))

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report):
        """No dots."""
        if report.when == "call" or report.outcome != "passed":
            word = "error" if report.when != "call" and report.failed else report.outcome
            return word, "", ""
        return "", "", ""

    def pytest_runtest_logreport(self, report) -> None:
        file = _file(report.nodeid)
        self.seconds[file] += report.duration
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[file][report.outcome] += 1
        if report.when != "teardown":
            return
        self.left[file] -= 1
        if self.left[file] == 0:
            said = ", ".join(f"{count} {outcome}" for outcome, count in self.outcomes[file].items())
            left = sum(1 for count in self.left.values() if count > 0)
            age = time.monotonic() - self.begun
            terminal = self.config.pluginmanager.getplugin("terminalreporter")
            terminal.write_line(f"{age:5.0f} s  {file}: {said} in {self.seconds[file]:.0f} s; {left} files to go")


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]
