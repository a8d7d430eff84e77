"""What can be wrong with a store: not there yet, never coming, damaged."""


class StoreBehind(TimeoutError):
    """The builder has not committed the era yet."""


class BuildFailed(RuntimeError):
    """The builder stopped with an error, so the era will not come without help."""


class StoreDamaged(RuntimeError):
    """A file is not what its commit record says."""
