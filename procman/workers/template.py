"""The template: imports the application once, then forks a worker whenever the arbiter asks for one.

A worker is forked twice: the process in between exits at once, so that the worker becomes a child of the
arbiter (prctl(2), PR_SET_CHILD_SUBREAPER), which watches it by pidfd and outlives this template. The template
starts no threads and opens no connections; what it has imported is shared with every worker, copy-on-write.

The process in between is there beforehand, and hears the next message in the template's place: forking an application
of some size takes longer than all else from the death of a worker to its successor. It is a child of the template, dies
with it, and has no state: when it was killed, another one hears the next message.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from procman.core.codec import encode
from procman.core.lifecycle import Adjust, Failed, Fork, Forked, Ready, ToChild, cut
from procman.core.spec import CronWork, HttpWork
from procman.errors import ChannelClosed
from procman.observe import logs
from procman.observe.scoreboard import Scoreboard
from procman.unix.channel import Channel, pair
from procman.unix.process import die_with_parent
from procman.workers import boot
from procman.workers.application import import_modules, load, make_importable

if TYPE_CHECKING:
    from procman.core.lifecycle import Boot, Seat
    from procman.core.spec import PoolSpec
    from procman.workers.child import Child

log = logging.getLogger("procman.template")


class Template:
    """The application of one generation, and what its workers inherit."""

    def __init__(self, message: Boot, channel: Channel, fds: list[int], parent: int) -> None:
        self._boot = message
        self._parent = parent
        self._channel = channel
        self._passed_on, self._to_template = (Channel(end, Adjust) for end in pair())
        self._board = Scoreboard(fds[0])
        self._dump_fd = fds[1]
        boot.show_stacks(self._dump_fd, channel)
        self._listeners = boot.adopt_listeners(fds[2:])
        self._application: Any = None

    def serve(self) -> None:
        """Import, say so, fork on request; returns when the arbiter closes the channel."""
        try:
            boot.redirect(self._boot.pool)
            if isinstance(self._boot.pool.work, HttpWork):
                from procman.workers import http_tls

                http_tls.context(self._boot.pool.work)  # before the pool's user, who may not read the key
            boot.adopt_policy(self._boot.pool)
            # Again, because a change of credentials has cleared it (prctl(2), PR_SET_PDEATHSIG).
            die_with_parent(signal.SIGKILL, self._parent)
            make_importable(self._boot.pool.working_dir)
            self._application = import_application(self._boot.pool)
            if self._boot.database is not None:
                import_runtime()
        except Exception:  # the application's code: whatever it raises is the reason why it can't serve
            self._channel.send(Failed(traceback=cut(traceback.format_exc())))
            boot.leave(boot.BOOT_FAILED)
        # The first words of every worker: how they are encoded is found out once, here.
        encode(Forked(pid=os.getpid()))
        boot.freeze()
        self._channel.send(Ready())
        forked = True
        while not self._channel.ended(wait=not forked):
            forked = self._have_heard(last_try=not forked)

    def _have_heard(self, *, last_try: bool) -> bool:
        """Have a process in between hear one message; false if there could be none, or if somebody has killed it.

        Then it is tried again when there is a message: or we might fork without end, for nothing.
        """
        template = os.getpid()
        try:
            between = os.fork()
        except OSError as error:  # too many processes, or no memory for one more: this template goes on
            if last_try:
                self._hear(error)
                self._take_over()
            return False
        if between == 0:
            self._be_in_between(template)
        try:
            status = os.waitpid(between, 0)[1]
        except ChildProcessError:  # the application ignores SIGCHLD, or waits for children that are not its
            status = 0
        self._take_over()
        return status == 0

    def _take_over(self) -> None:
        """Go by what the process in between has passed on."""
        while (received := self._passed_on.receive()) is not None:
            limits = received[0].limits
            self._boot = replace(self._boot, pool=replace(self._boot.pool, limits=limits))

    def _be_in_between(self, template: int) -> NoReturn:
        try:
            die_with_parent(signal.SIGKILL, template)
            self._hear()
        except ChannelClosed:
            pass  # the template sees it too
        except Exception:  # here end the template's frames, for the worker as well
            log.exception("a process forked by the template failed")
            os._exit(boot.BOOT_FAILED)
        os._exit(0)

    def _hear(self, cannot: OSError | None = None) -> None:
        """Heed the next message: fork a worker, unless that can't be, or pass on what is for the template."""
        match self._channel.receive(wait=True):
            case Fork(seat=seat), [channel_fd, dump_fd]:
                if (why_not := cannot or self._fork(seat, channel_fd, dump_fd)) is not None:
                    Channel.from_fd(os.dup(channel_fd), ToChild).send(Failed(traceback=f"cannot fork: {why_not}"))
                os.close(channel_fd)
                os.close(dump_fd)
            case Adjust() as message, _:
                self._to_template.send(message)

    def _fork(self, seat: Seat, channel_fd: int, dump_fd: int) -> OSError | None:
        try:
            worker = os.fork()
        except OSError as error:
            return error
        if worker == 0:
            self._become_worker(seat, channel_fd, dump_fd)
        return None

    def _become_worker(self, seat: Seat, channel_fd: int, dump_fd: int) -> NoReturn:
        channel = Channel.from_fd(channel_fd, ToChild)
        try:
            channel.send(Forked(pid=os.getpid()))
        except ChannelClosed:
            os._exit(0)
        # Until the worker has its own: what is asked for here is meant for another process.
        signal.signal(signal.SIGQUIT, signal.SIG_IGN)
        for end in (self._channel, self._passed_on, self._to_template):
            end.close()
        os.setsid()
        child = boot.seat_child(self._boot, seat, channel, self._board, dump_fd, self._listeners)
        logs.configure(self._boot.log_format, pool=self._boot.pool.name, worker=seat.name)
        try:
            boot.settle(child)
            os.close(self._dump_fd)  # faulthandler has the worker's own now
        except Exception:  # told to the arbiter, then fatal
            boot.fail(child)
        boot.run(child, lambda: serve(child, self._application))


def import_application(spec: PoolSpec) -> Any:
    """What the pool's workers serve, with the code of their kind imported as well, so that it is shared."""
    match spec.work:
        case HttpWork(app=app):
            import_module("procman.workers.http")
            return load(app)
        case CronWork(modules=modules):
            import_module("procman.workers.cron")
            return import_modules(modules)
        case _:
            raise ValueError(f"a {spec.kind} pool has no template")


def import_runtime() -> None:
    """What the workers' units need of procman itself: imported here, its pages are shared by all of them."""
    import_module("procman.signaling")
    import_module("procman.jobs.execute")


def serve(child: Child, application: Any) -> None:
    """Serve as a worker of the pool's kind."""
    match child.spec.work:
        case HttpWork():
            from procman.workers import http

            http.serve(child, application)
        case _:
            from procman.workers import cron

            cron.serve(child, application)


def main(channel_fd: int) -> NoReturn:
    """Be a template for as long as the arbiter lives."""
    parent = os.getppid()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        # A template is ended by the arbiter alone; these are for workers, which set their own handlers.
        signal.signal(signum, signal.SIG_IGN)
    message, channel, fds = boot.receive_boot(channel_fd)
    logs.configure(message.log_format, pool=message.pool.name, worker=f"template@{message.generation}")
    die_with_parent(signal.SIGKILL, parent)
    try:
        Template(message, channel, fds, parent).serve()
    except ChannelClosed:
        pass  # the arbiter wants this template no more, or is gone
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
