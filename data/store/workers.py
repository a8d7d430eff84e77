"""Tokenizer processes: batches in, tokenized batches out, in the order they were submitted.

The workers are plain child processes on pipes. They share nothing with the builder (no fork of its
threads or locks, no `__main__` guard in the caller's script) and end when the pipe does, so a
builder killed with -9 leaves none behind.
"""

import os
import pickle
import queue
import struct
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol

from gesso.data.text.documents import Batch, DocumentRules, Encoded, encode
from gesso.data.text.rejects import BuildError
from gesso.data.tokenizers.base import Tokenizer
from gesso.data.tokenizers.load import load_tokenizer

_SERVE = "from gesso.data.store.workers import serve; serve()"


class Encoder(Protocol):
    """What tokenizes batches. ahead: how many batches are worth having submitted at once."""

    ahead: int

    def submit(self, batch: Batch) -> "Future[Encoded]": ...

    def close(self) -> None: ...


def open_encoder(
    *, workers: int, rules: DocumentRules, tokenizer: Tokenizer, folder: Path
) -> Encoder:
    """An encoder in this process for one worker, else that many processes.

    folder: where the tokenizer is saved; the processes load it from there.
    """
    if workers == 1:
        return InProcess(rules, tokenizer)
    return Pool(workers, rules, folder)


class InProcess:
    """Tokenizes when a batch is submitted."""

    ahead = 1

    def __init__(self, rules: DocumentRules, tokenizer: Tokenizer) -> None:
        self._rules = rules
        self._tokenizer = tokenizer

    def submit(self, batch: Batch) -> "Future[Encoded]":
        future: Future[Encoded] = Future()
        future.set_result(encode(batch, rules=self._rules, tokenizer=self._tokenizer))
        return future

    def close(self) -> None:
        pass


class Pool:
    """Worker processes, one thread of ours waiting on each."""

    def __init__(self, workers: int, rules: DocumentRules, folder: Path) -> None:
        self.ahead = 2 * workers
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._processes = [_start(rules, folder) for _ in range(workers)]
        for process in self._processes:
            self._idle.put(process)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="tokenize")

    def submit(self, batch: Batch) -> "Future[Encoded]":
        return self._threads.submit(self._run, batch)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.kill()
        self._threads.shutdown(wait=True)
        for process in self._processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with suppress(BrokenPipeError):  # a batch that the killed worker did not take
                    pipe.close()

    def _run(self, batch: Batch) -> Encoded:
        process = self._idle.get()
        try:
            assert process.stdin is not None and process.stdout is not None
            _send(process.stdin, batch)
            answer = _receive(process.stdout)
        except (EOFError, BrokenPipeError):
            raise BuildError(
                f"a tokenizer process died ({_death(process)}); with fewer workers or a smaller "
                "max_document_bytes it needs less memory. Run the build again to continue"
            ) from None
        finally:
            self._idle.put(process)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def serve() -> None:
    """The life of a worker process: rules and tokenizer first, then a batch at a time."""
    incoming = sys.stdin.buffer
    # Whatever a library prints must not land between the answers.
    outgoing = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        rules, folder = _receive(incoming)
        tokenizer = load_tokenizer(folder)
        while True:
            batch = _receive(incoming)
            try:
                answer: Encoded | BuildError = encode(
                    Batch(*batch), rules=rules, tokenizer=tokenizer
                )
            except Exception as error:  # noqa: BLE001 - handed to the builder, which raises it
                answer = BuildError(f"tokenizer process: {type(error).__name__}: {error}")
            _send(outgoing, answer)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        # The builder is gone or done. Leave without flushing into a closed pipe.
        os._exit(0)


def _start(rules: DocumentRules, folder: Path) -> "subprocess.Popen[bytes]":
    # One thread each: parallel tokenizers inside parallel processes would only fight for the cores.
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),  # Gesso is found where this process found it
        "TOKENIZERS_PARALLELISM": "false",
        "RAYON_NUM_THREADS": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        start_new_session=True,  # Ctrl-C is for the builder
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # the first batch reports it
        _send(process.stdin, (rules, str(folder)))
    return process


def _death(process: "subprocess.Popen[bytes]") -> str:
    status = process.wait()
    return f"signal {-status}, perhaps out of memory" if status < 0 else f"exit status {status}"


def _send(pipe: IO[bytes], message: object) -> None:
    content = pickle.dumps(message, protocol=5)
    pipe.write(struct.pack("<Q", len(content)))
    pipe.write(content)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> Any:
    head = pipe.read(8)
    if len(head) < 8:
        raise EOFError
    content = pipe.read(struct.unpack("<Q", head)[0])
    return pickle.loads(content)
