"""When to save: every so many steps, every so many minutes."""

import time

from gesso.partitioning.hosts.processes import Hosts
from gesso.pretrain.config import CheckpointConfig

_ASK_SECONDS = 5.0  # at most so often do several hosts ask process 0 whether a save is due


class SaveClock:
    """Ask `due(step)` after every update, in every process; all get the same answer."""

    def __init__(self, config: CheckpointConfig, hosts: Hosts) -> None:
        self._config, self._hosts = config, hosts
        self._saved_at = time.monotonic()
        self._asked_at: tuple[int, float] | None = None
        self._next_question = 0

    def due(self, step: int) -> bool:
        """Whether to save after `step` updates: by count, or by process 0's clock."""
        every = self._config.every_steps
        by_count = bool(every) and step % every == 0
        return self._due_by_clock(step) or by_count

    def restart(self) -> None:
        """A save has begun: the minutes count from here."""
        self._saved_at = time.monotonic()

    def _due_by_clock(self, step: int) -> bool:
        if not self._config.every_minutes:
            return False
        if self._hosts.count == 1:
            return self._minutes_are_over()
        if self._asked_at and step < self._next_question:
            return False
        answer = None
        if self._hosts.process == 0:
            answer = {"due": self._minutes_are_over(), "next": step + self._steps_ahead(step)}
        answer = self._hosts.share("due", answer, timeout_seconds=self._config.timeout_seconds)
        self._next_question = answer["next"]
        self._asked_at = (step, time.monotonic())
        return answer["due"]

    def _minutes_are_over(self) -> bool:
        return time.monotonic() - self._saved_at >= 60 * self._config.every_minutes

    def _steps_ahead(self, step: int) -> int:
        """How many steps to go until the next question: about _ASK_SECONDS, or less where saves are
        frequent."""
        if self._asked_at is None:
            return 1
        seconds = (time.monotonic() - self._asked_at[1]) / max(step - self._asked_at[0], 1)
        until = min(_ASK_SECONDS, 60 * self._config.every_minutes / 10)
        return max(1, min(1000, int(until / max(seconds, 1e-6))))
