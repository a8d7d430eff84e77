"""The exit statuses of a run, for a restart loop: whether to start it again."""

DONE = 0
FAILED = 1  # the run failed; a restart may help
REFUSED = 2  # request, configuration or environment: a restart does not help, nothing was touched
HANG = 70  # a phase ran longer than it may; the stacks of all threads are in the log
PEER = 71  # another process of the run failed; that one knows why
PREEMPTED = 75  # a signal stopped it, and it saved: run the same command again
