"""Which process runs which tests."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

GROUPS = {
    # Files that share a training, and those that share the servers, each go to one process.
    "training": ("test_learning.py", "test_mini_identity.py"),
    "servers": (
        "test_augment.py",
        "test_browser.py",
        "test_generation.py",
        "test_mini_demo.py",
        "test_server.py",
        "test_workflows.py",
    ),
}
LONG = (
    "miniature/test_making.py",
    "servers",
    "training",
    "training/test_resuming.py",
    "training/test_distributed.py",
    "test_gpu_benchmark.py",
)
"""Groups that are started first, or else one process works at the end while the other waits. Not `wiring`: its browser
stays open, and with it an event loop, in which ComfyUI cannot be loaded into the process."""


def find_group(nodeid: str) -> str:
    """The group of a test, which one process runs: that of its file, or the file itself."""
    path = nodeid.partition("::")[0]
    name = path.rpartition("/")[2]
    return next((group for group, names in GROUPS.items() if name in names), path)


class GroupScheduling(LoadScopeScheduling):
    """Keeps the tests of a group in one process, and the fixtures of modules and session with them.

    pytest-xdist's own `--dist=loadgroup` writes groups into node ids, where pytest 9.2 does not look any more. After
    a crash its scheduler gives out finished groups again, for whose end it waits without end.
    """

    def _split_scope(self, nodeid: str) -> str:
        return find_group(nodeid)

    def remove_node(self, node: WorkerController) -> str | None:
        """Give the others what a process had left, but not the test in which it crashed: that one has failed."""
        groups = self.assigned_work[node]
        left = [(group, test) for group, tests in groups.items() for test, done in tests.items() if not done]
        if left:
            group, test = left[0]
            groups[group][test] = True
        for name in [name for name, tests in groups.items() if all(tests.values())]:
            del groups[name]
        super().remove_node(node)
        return left[0][1] if left else None

    def _reschedule(self, node: WorkerController) -> None:
        super()._reschedule(node)
        # A process begins a test when it knows the next one, or that there is none.
        if not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
            self._reschedule(node)
