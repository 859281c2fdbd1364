"""Where a training runs: on one device in this process, or on several in processes that Lightning Fabric starts."""

from __future__ import annotations

import importlib.util
import logging
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch.multiprocessing.spawn import ProcessException

from labctl.errors import Aborted, ConfigError, LabctlError
from labctl.learning.progress import DataRead, EpochDone, TrainProgress, Watch
from labctl.learning.sharing import rank

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# Fabric tells on standard error who starts where. Processes import this module before they start anything.
for _name in ("lightning_fabric.utilities.distributed", "lightning_fabric.utilities.rank_zero"):
    logging.getLogger(_name).setLevel(logging.WARNING)

KINDS = ("auto", "cpu", "cuda", "mps")


def find_device(name: str = "auto") -> torch.device:
    """The device called "auto", "cpu", "cuda", "cuda:1" or "mps"; "auto" is a GPU where torch sees one.

    Raises
    ------
    ConfigError
        There is none of that name here.
    """
    kind, _, number = name.partition(":")
    if kind not in KINDS or (number and (kind != "cuda" or not number.isdecimal())):
        raise ConfigError(f"device {name!r} is unknown: say auto, cpu, cuda, cuda:1 (the second GPU) or mps")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "auto":
        kind = "cuda" if gpus else "mps" if torch.backends.mps.is_available() else "cpu"
    if kind == "cuda" and not gpus:
        raise ConfigError(
            f"device {name!r}: torch {torch.__version__} sees no CUDA GPU here; say --device cpu, or install a torch "
            "for your GPU and driver (pytorch.org, Get Started)"
        )
    if kind == "cuda" and int(number or 0) >= gpus:
        raise ConfigError(f"device {name!r}: torch sees {gpus} GPU(s) here, cuda:0 to cuda:{gpus - 1}")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"device {name!r}: torch sees no Apple GPU here; say --device cpu")
    return torch.device(kind, int(number or 0)) if kind == "cuda" else torch.device(kind)


def describe(device: torch.device, processes: int = 1) -> str:
    """A device in words, for metrics.json: "cpu", "cuda (NVIDIA A100)", "2 x cpu"."""
    name = f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
    return name if processes == 1 else f"{processes} x {name}"


class Work(Protocol):
    """A training, as every process does it. A module-level function: it is sent to processes by its name."""

    def __call__(
        self,
        job: Any,
        device: torch.device,
        fabric: Fabric | None,
        progress: Callable[[TrainProgress], None] | None,
        watch: Watch | None,
    ) -> None:
        """Do it; the first process writes."""


def spread(
    work: Work,
    job: Any,
    device: torch.device,
    processes: int,
    progress: Callable[[TrainProgress], None] | None,
    watch: Watch | None,
) -> None:
    """Do `work` in several processes, one GPU each from `device` on, or all on the CPU.

    What the first process tells comes to `progress` and `watch` on a thread of this process; what they raise ends the
    training, and so does Ctrl-C.

    Raises
    ------
    ConfigError
        There are not so many GPUs.
    LabctlError
        Lightning Fabric is not installed, or what the first process raised.
    """
    if importlib.util.find_spec("lightning_fabric") is None:
        raise LabctlError("several devices need Lightning Fabric: pip install labctl[gpus]")
    first = device.index or 0
    if device.type == "mps" or (device.type == "cuda" and first + processes > torch.cuda.device_count()):
        count = 1 if device.type == "mps" else torch.cuda.device_count() - first
        raise ConfigError(f"--devices {processes}: there are {count} from {device} on")
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    fabric = Fabric(
        accelerator="cuda" if device.type == "cuda" else "cpu",
        devices=list(range(first, first + processes)) if device.type == "cuda" else processes,
        strategy=DDPStrategy(start_method="spawn"),
    )
    context = torch.multiprocessing.get_context("spawn")
    hear, say = context.Pipe(duplex=False)
    stop = context.Event()
    listener = _Listener(hear, stop, progress, watch)
    before = set(torch.multiprocessing.active_children())
    try:
        with listener:
            try:
                fabric.launch(cast(Any, _on_rank), work, job, say, stop)
            finally:
                for child in set(torch.multiprocessing.active_children()) - before:
                    child.terminate()
                    child.join()
                say.close()  # the last end that could still speak: the listener hears that nobody does
    except ProcessException as error:
        if listener.failure is not None:
            raise listener.failure from None
        raise LabctlError(f"the training failed in one of its processes: {_last_line(error)}") from error
    if listener.failure is not None:
        raise listener.failure


class _Listener(threading.Thread):
    """Hands on what the first process tells, until nobody can speak any more."""

    def __init__(
        self,
        hear: Connection,
        stop: Any,
        progress: Callable[[TrainProgress], None] | None,
        watch: Watch | None,
    ) -> None:
        super().__init__(name="training listener", daemon=True)
        self._hear, self._stop_all, self._progress, self._watch = hear, stop, progress, watch
        self.failure: BaseException | None = None

    def run(self) -> None:
        while True:
            try:
                told = self._hear.recv()
            except (EOFError, OSError):
                return
            try:
                self._hand_on(told)
            except BaseException as error:  # whatever a listener raises ends the training, as it does in one process
                self.failure = self.failure or error
                self._stop_all.set()

    def _hand_on(self, told: object) -> None:
        if isinstance(told, BaseException):
            self.failure = self.failure or told
        elif self.failure is not None:
            return
        elif isinstance(told, TrainProgress) and self._progress is not None:
            self._progress(told)
        elif isinstance(told, DataRead | EpochDone) and self._watch is not None:
            self._watch(told)

    def __enter__(self) -> _Listener:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.join()
        self._hear.close()


def _on_rank(fabric: Fabric, work: Work, job: Any, say: Connection, stop: Any) -> None:
    """What every process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of them; the one that started them ends them
    first = rank() == 0

    def tell(told: object) -> None:
        if stop.is_set():
            raise Aborted("the training was asked to end")
        say.send(told)

    try:
        work(job, fabric.device, fabric, tell if first else None, tell if first else None)
    except LabctlError as error:
        # from any of them: whichever dies first takes the others with it, and lines as short as this do not mix
        if not stop.is_set():
            say.send(error)
        raise
    finally:
        say.close()


def _last_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1][:300] if str(error).strip() else type(error).__name__
