"""The same plan on a Ray cluster: each worker holds the model once, and takes task after task.

A task is what it would be here, with as many threads and the same kernels, so on machines of one
kind the numbers are the same to the last bit. Ray need not be installed unless it is asked for.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

import torch

from circuits.errors import CircuitsError
from circuits.progress import Progress
from circuits.sweep.execute import Executor, Scores, TaskScores, collect
from circuits.sweep.plans import Plan

if TYPE_CHECKING:
    from circuits.model import HookedModel

TRIES = 3  # how often a task may take its worker with it
_REPORTS = "RAY_USAGE_STATS_ENABLED"
_ADDRESS = re.compile(r"(?:ray://)?\[?(?P<host>[^/\]]+)\]?:(?P<port>\d+)")
_REACHED_WITHIN = 10.0  # seconds
_PATIENCE = 1.0  # seconds between looks at whether somebody wants to interrupt
Execute = Callable[..., Scores]


@contextmanager
def workers(model: HookedModel, address: str | None = None) -> Iterator[Execute]:
    """A function that runs a `Plan` on a Ray cluster, as `circuits.sweep.run` does here.

    `address` is where the cluster is, as ``ray.init`` takes it: "host:port", "ray://host:port",
    "auto", or "local" for one that is started on this machine's cores. None takes the one that the
    program is connected to already, or RAY_ADDRESS names, or that runs here; else it starts one.
    What was started is stopped on leaving, what was there is left as it was. Unless the program was
    connected already, what is printed meanwhile, by Ray say, goes to standard error. Every machine
    of the cluster needs this package.

    Workers get as many threads as torch has here, and there are as many workers as that allows (on
    CUDA one for each GPU). The model goes to each of them once, from memory. A worker that dies is
    replaced and its task done again, at most `TRIES` times.

    Raises:
        CircuitsError: when Ray is not installed, no cluster can be reached, or a task's workers
            keep dying.
    """
    ray = _ray()
    with ExitStack() as stack:
        if not ray.is_initialized():
            # Where a result is printed, Ray's own messages (of a worker that died) must not be.
            stack.enter_context(redirect_stdout(sys.stderr))
            _connect(ray, address)
            stack.callback(ray.shutdown)
        elif address is not None:
            raise CircuitsError(
                f"this program is connected to a Ray cluster already; leave out {address!r}, or "
                "call ray.shutdown() first"
            )
        pool = _Pool(ray, model)
        stack.callback(pool.close)
        yield pool.run


class Worker:
    """One process of the cluster: it holds the model, and runs tasks of one plan after another."""

    def __init__(self, model: HookedModel, n_threads: int, precision: str, onednn: bool) -> None:
        torch.set_num_threads(n_threads)
        torch.set_float32_matmul_precision(precision)
        self.model, self._onednn, self._number = model, onednn, 0

    def run(self, number: int, boxed: list[Any], index: int) -> TaskScores:
        """What comes of this task. `boxed` holds the reference to the plan of this `number`."""
        if number != self._number:
            self._plan: Plan = _ray().get(boxed[0])
            self._executor = Executor(self.model, self._plan)
            self._number = number
        with self.model.backend.using(onednn=self._onednn):
            return self._executor(self._plan.tasks[index])


class _Pool:
    """The workers. They are started as they are needed, and outlive a plan."""

    def __init__(self, ray: Any, model: HookedModel) -> None:
        self._ray, self._model = ray, ray.put(model)
        n_threads = torch.get_num_threads()
        on_gpu = model.W_E.is_cuda
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cores = [int(node.get("CPU", 0)) for node in nodes]
        # A worker may not ask for more cores than any machine has.
        needs = {"num_cpus": min(n_threads, max(cores, default=1)), "num_gpus": int(on_gpu)}
        if on_gpu:
            self.most = sum(int(node.get("GPU", 0)) for node in nodes)
        else:
            self.most = sum(n // max(1, needs["num_cpus"]) for n in cores)
        if not self.most:
            what = "GPUs" if on_gpu else "cores"
            raise CircuitsError(f"the Ray cluster has no {what} to work with; add a machine to it")
        self._kind = ray.remote(**needs)(Worker)
        self._arguments = n_threads, torch.get_float32_matmul_precision(), model.backend.uses_onednn
        self.workers: list[Any] = []
        self._number = 0

    def run(self, plan: Plan, *, progress: Progress | None = None) -> Scores:
        """As `circuits.sweep.run`."""
        results = ((plan.tasks[index], scores) for index, scores in self._results(plan))
        return collect(plan, results, progress)

    def _results(self, plan: Plan) -> Iterator[tuple[int, TaskScores]]:
        """Each task's index and scores, as they come."""
        ray, tries = self._ray, Counter[int]()
        self._number += 1
        boxed = [ray.put(plan)]  # in a box, so that a worker reads it once and not for every task
        waiting = deque(range(len(plan.tasks)))
        while len(self.workers) < min(self.most, len(waiting)):
            self.workers.append(self._new())
        idle, busy = list(self.workers), dict[Any, tuple[Any, int]]()
        while waiting or busy:
            while waiting and idle:
                worker, index = idle.pop(), waiting.popleft()
                busy[worker.run.remote(self._number, boxed, index)] = worker, index
            ready, _ = ray.wait(list(busy), timeout=_PATIENCE)
            for reference in ready:
                worker, index = busy.pop(reference)
                try:
                    yield index, ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise (
                        error.cause if isinstance(error.cause, CircuitsError) else error
                    ) from None
                except ray.exceptions.RayError as error:
                    tries[index] += 1
                    if tries[index] == TRIES:
                        raise _given_up(index, error) from error
                    waiting.appendleft(index)
                    worker = self._replaced(worker)
                idle.append(worker)

    def _new(self) -> Any:
        return self._kind.remote(self._model, *self._arguments)

    def _replaced(self, worker: Any) -> Any:
        self._ray.kill(worker)
        self.workers[self.workers.index(worker)] = new = self._new()
        return new

    def close(self) -> None:
        """Stop the workers, and free what was put into the cluster's memory."""
        for worker in self.workers:
            self._ray.kill(worker)
        self.workers.clear()
        del self._model


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise CircuitsError(
            'the engine "ray" needs Ray, which is not installed; run: '
            'pip install "gpt2-circuits[ray]"'
        ) from error
    return ray


def _connect(ray: Any, address: str | None) -> None:
    """Join the cluster at an address, or start one."""
    if match := _ADDRESS.fullmatch(address or ""):
        # Ray itself would try for minutes.
        try:
            socket.create_connection((match["host"], int(match["port"])), _REACHED_WITHIN).close()
        except OSError as error:
            raise CircuitsError(
                f"no Ray cluster answers at {address}: {error}; start one there with "
                '"ray start --head", or leave the address out to use this machine'
            ) from error
    try:
        with _no_reports():
            ray.init(address, log_to_driver=False, logging_level="error")
    except Exception as error:  # Ray raises all sorts, and that class itself
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        where = "on this machine" if address in (None, "local") else f"at {address}"
        raise CircuitsError(
            f"there is no Ray cluster {where}, and none starts: {reason}"
        ) from error


@contextmanager
def _no_reports() -> Iterator[None]:
    """A cluster started here does not report its use to Ray's makers, unless the user says so."""
    unset = _REPORTS not in os.environ
    os.environ.setdefault(_REPORTS, "0")
    try:
        yield
    finally:
        if unset:
            del os.environ[_REPORTS]


def _given_up(index: int, error: Exception) -> CircuitsError:
    reason = " ".join(str(error).split())
    return CircuitsError(
        f"task {index} of the plan was tried on {TRIES} workers, and all of them died; the last "
        f"because: {reason[:300]}"
    )
