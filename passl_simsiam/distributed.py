"""Ranks: who this process is among those that `paddle.distributed.launch` started, and what they share."""

from __future__ import annotations

import contextlib
import faulthandler
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from passl_simsiam import watchdog
from passl_simsiam.errors import Interrupted, UserError

#: Seconds without progress after which a rank counts as hung, unless the recipe says otherwise.
HANG_TIMEOUT = 600.0
#: Seconds that ranks have at least to join: their first imports may come from a cold disk.
JOINING = 60.0

#: What to look at when ranks do not find each other.
HINTS = (
    "look at the address of --master (as the other machines reach it), whether a firewall lets all ports between the "
    "machines through, and the network interface, which GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME choose (eth0, say); "
    "NCCL_DEBUG=INFO tells more"
)


@dataclass(frozen=True)
class World:
    """This process's place: `rank` of `size` processes that train one model together."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Only the main rank prints and writes."""
        return self.rank == 0


def from_environment() -> World:
    """The place that the launcher wrote into the environment; a plain process is the only rank."""
    return World(int(os.environ.get("PADDLE_TRAINER_ID", "0")), int(os.environ.get("PADDLE_TRAINERS_NUM", "1")))


def local_size() -> int:
    """Ranks on this machine."""
    return int(os.environ.get("PADDLE_LOCAL_SIZE", "1"))


def start(world: World, hang_timeout: float = HANG_TIMEOUT) -> None:
    """Join the other ranks (gloo on CPU, NCCL on GPU), and watch from now on that none of them dies or hangs.

    Args:
        hang_timeout: seconds without a `watchdog.beat`, after the first one, after which a rank counts as hung.

    Raises:
        UserError: the ranks do not find each other. One that does not come at all ends the others with their stacks.
    """
    if world.size == 1:
        watchdog.start(0, None, hang_timeout)
        return
    import paddle
    import paddle.distributed as dist

    # Paddle waits up to 15 minutes for a rank that never comes, with the interpreter locked, so that no Python thread
    # could watch.
    faulthandler.dump_traceback_later(max(hang_timeout, JOINING), exit=True)
    try:
        dist.init_parallel_env()
        # Nothing else uses this store: it is not safe to use from two threads, and a signal breaks a wait on it.
        store = paddle.base.core.create_or_get_global_tcp_store()
        if world.is_main:
            host = os.environ["PADDLE_MASTER"].rpartition(":")[0]  # of this machine, as the others reach it
            store.set("watchdog", f"{host}:{watchdog.open_hub(host, world.size, hang_timeout)}")
        host, _, port = store.get("watchdog").decode().rpartition(":")
        watchdog.start(world.rank, (host, int(port)), hang_timeout)
    except (RuntimeError, ValueError, OSError) as error:  # Paddle's own errors are some of these
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"rank {world.rank} cannot join the {world.size - 1} other(s): {reason}; {HINTS}") from error
    finally:
        faulthandler.cancel_dump_traceback_later()


def stop(error: BaseException | None = None) -> None:
    """Leave the job: well, or with the error that is about to end this process, which then ends the other ranks too.

    Where another rank is the cause (a collective failed because that rank died), this does not return: the watchdog
    says so and ends the process.
    """
    if isinstance(error, Interrupted):  # agreed on by all
        error = None
    watchdog.stop(error, code=2 if isinstance(error, UserError) else 1)


def barrier(world: World, what: str) -> None:
    """Return when all ranks have come here, however long one of them takes (up to an hour).

    Collectives must not wait for long: gloo's give up after 30 s. So where one rank may be slower than the others by
    that much, they meet here before the next collective.

    Args:
        what: for the log, should they not meet.
    """
    if world.size > 1:
        dog = watchdog.current()
        assert dog is not None, "distributed.start comes first"
        with watchdog.phase(what):
            dog.meet(what)


@contextlib.contextmanager
def main_only(world: World, what: str) -> Iterator[bool]:
    """Work that the main rank does alone, for up to an hour, while the others wait at the end of the block.

        with main_only(world, "saving a checkpoint") as is_main:
            if is_main:
                ...

    An error of the main rank inside ends the others too.
    """
    with watchdog.phase(what):
        yield world.is_main
        barrier(world, what)


def total(values: Sequence[float], world: World) -> list[float]:
    """The sum over all ranks of each number. All ranks must call it."""
    if world.size == 1:
        return list(values)
    import paddle
    import paddle.distributed as dist

    tensor = paddle.to_tensor(list(values), dtype="float64")
    dist.all_reduce(tensor)
    return tensor.tolist()


def mean(value: float, world: World) -> float:
    """The mean of every rank's number. All ranks must call it."""
    return total([value], world)[0] / world.size


def gather_rows(array: np.ndarray, world: World) -> np.ndarray:
    """The rows of every rank's array, in rank order; ranks may hold different numbers of rows.

    The ranks meet first: what they bring took each of them its own time to make.

    Args:
        array: [n, ...]; the trailing shape and dtype agree on all ranks.
    """
    if world.size == 1:
        return array
    barrier(world, "gathering rows")
    import paddle
    import paddle.distributed as dist

    counts: list[paddle.Tensor] = []
    dist.all_gather(counts, paddle.to_tensor([len(array)], dtype="int64"))
    rows = [int(count.item()) for count in counts]
    padded = np.zeros((max(rows), *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    parts: list[paddle.Tensor] = []
    dist.all_gather(parts, paddle.to_tensor(padded))
    return np.concatenate([part.numpy()[:n] for part, n in zip(parts, rows, strict=True)])
