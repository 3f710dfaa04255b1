"""Requests of several clients computed at once: bounded queues, in one event loop.

There is a queue for each signature and shape, so that images of different sizes go into different
batches. A batch is computed when it is full, or when its oldest request has waited long enough and
a thread is free.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bit_keras.serving.configs import BatchingParameters
from bit_keras.serving.errors import InvalidArgumentError, OverloadedError, ServingError
from bit_keras.serving.metrics import Metrics
from bit_keras.serving.servable import Arrays, Signature

_Key = tuple[Signature, tuple[tuple[int, ...], ...]]
_Answer = Arrays | ServingError


class _Task:
    """A part of a request: at most a batch of examples, and who waits for them."""

    def __init__(self, inputs: Arrays, future: asyncio.Future[Arrays]) -> None:
        self.inputs = inputs
        self.future = future
        self.size = len(next(iter(inputs.values())))
        self.arrived = time.monotonic()


class Batcher:
    """Queues requests and computes them in batches. To be used within one event loop.

    Args:
        parameters: sizes and times.
        metrics: take what is counted.
        model: name of the model, for the metrics.
    """

    def __init__(self, parameters: BatchingParameters, metrics: Metrics, model: str) -> None:
        self._parameters = parameters
        self._metrics = metrics
        self._model = model
        self._queues: dict[_Key, collections.deque[_Task]] = {}
        self._pending: collections.Counter[str] = collections.Counter()
        self._idle = parameters.num_batch_threads
        self._threads = ThreadPoolExecutor(self._idle, thread_name_prefix="batch")
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, signature: Signature, inputs: Arrays) -> Arrays:
        """The outputs for checked inputs of any number of examples.

        Raises:
            OverloadedError: when too many examples wait already.
            InvalidArgumentError: for more examples than may ever wait, or refused by the module.
            ServingError: when the module fails.
        """
        size = len(next(iter(inputs.values())))
        capacity = self._parameters.capacity
        if size > capacity:
            raise InvalidArgumentError(f"{size} examples in one request; at most {capacity} fit.")
        if self._pending[signature.name] + size > capacity:
            raise OverloadedError(
                f"{self._pending[signature.name]} examples of {self._model} wait already; at most "
                f"{capacity} may. Try again later."
            )
        key = (signature, tuple(inputs[name].shape[1:] for name in sorted(inputs)))
        queue = self._queues.setdefault(key, collections.deque())
        loop = asyncio.get_running_loop()
        limit = self._parameters.max_batch_size
        tasks = [
            _Task({name: x[i : i + limit] for name, x in inputs.items()}, loop.create_future())
            for i in range(0, size, limit)
        ]
        queue.extend(tasks)
        self._count(signature, size)
        self._dispatch()
        parts = await asyncio.gather(*(task.future for task in tasks))
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def close(self) -> None:
        """Ends the threads; nothing may wait any more."""
        self._threads.shutdown(wait=True)

    def _count(self, signature: Signature, change: int) -> None:
        self._pending[signature.name] += change
        self._metrics.pending.labels(self._model, signature.name).set(self._pending[signature.name])

    def _dispatch(self) -> None:
        """Starts every batch that is due while a thread is free; else sets the clock for one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._idle and self._queues:
            key, due = min(
                ((key, self._due(queue)) for key, queue in self._queues.items()), key=lambda x: x[1]
            )
            wait = due - time.monotonic()
            if wait > 0:
                self._timer = asyncio.get_running_loop().call_later(wait, self._dispatch)
                return
            batch = self._take(key)
            if batch:
                self._start(key[0], batch)

    def _due(self, queue: collections.deque[_Task]) -> float:
        """When the queue's next batch is to start: at once if full, told by its age."""
        oldest = queue[0].arrived
        limit = self._parameters.max_batch_size
        full = sum(task.size for task in itertools.islice(queue, limit)) >= limit
        return oldest if full else oldest + self._parameters.batch_timeout_micros / 1e6

    def _take(self, key: _Key) -> list[_Task]:
        """The next batch of a queue, without requests that were given up."""
        queue = self._queues[key]
        batch: list[_Task] = []
        room = self._parameters.max_batch_size
        while queue and queue[0].size <= room:
            task = queue.popleft()
            if task.future.done():
                self._count(key[0], -task.size)
                continue
            batch.append(task)
            room -= task.size
        if not queue:
            del self._queues[key]
        return batch

    def _start(self, signature: Signature, batch: list[_Task]) -> None:
        self._idle -= 1
        now = time.monotonic()
        for task in batch:
            self._metrics.waited.labels(self._model, signature.name).observe(now - task.arrived)
        self._metrics.batch_size.labels(self._model, signature.name).observe(
            sum(task.size for task in batch)
        )
        loop = asyncio.get_running_loop()
        inputs = [task.inputs for task in batch]
        computed = loop.run_in_executor(self._threads, compute, signature, inputs)
        computed.add_done_callback(functools.partial(self._finish, signature, batch, now))

    def _finish(
        self,
        signature: Signature,
        batch: list[_Task],
        started: float,
        computed: asyncio.Future[list[_Answer]],
    ) -> None:
        self._idle += 1
        self._metrics.computed.labels(self._model, signature.name).observe(
            time.monotonic() - started
        )
        self._count(signature, -sum(task.size for task in batch))
        failure = computed.exception()
        answers = [ServingError(str(failure))] * len(batch) if failure else computed.result()
        for task, answer in zip(batch, answers, strict=True):
            if task.future.done():  # the client has gone
                continue
            if isinstance(answer, ServingError):
                task.future.set_exception(answer)
            else:
                task.future.set_result(answer)
        self._dispatch()


def compute(signature: Signature, batch: list[Arrays]) -> list[_Answer]:
    """The answers to the inputs of several requests; one that is refused fails alone.

    A module fails a batch as a whole. The bad request is found by halving, which costs little: a
    module refuses before it computes.
    """
    sizes = [len(next(iter(inputs.values()))) for inputs in batch]
    joined = batch[0]
    if len(batch) > 1:
        joined = {name: np.concatenate([x[name] for x in batch]) for name in batch[0]}
    try:
        outputs = signature.run(joined)
        for name, array in outputs.items():
            if array.ndim < 1 or len(array) != sum(sizes):
                raise ServingError(f"Output {name!r} has no value for each example of the batch.")
    except InvalidArgumentError as error:
        if len(batch) == 1:
            return [error]
        half = len(batch) // 2
        return compute(signature, batch[:half]) + compute(signature, batch[half:])
    except ServingError as error:
        return [error] * len(batch)
    ends = np.cumsum(sizes)
    return [
        {name: array[end - size : end] for name, array in outputs.items()}
        for size, end in zip(sizes, ends, strict=True)
    ]
