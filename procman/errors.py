"""Every error procman raises on purpose.

ProcmanError
├── ConfigurationError      the configuration file or a command-line value is wrong (exit code 78)
├── AddressError            a listening address can't be bound or was not handed over
├── ApplicationError        the application can't be imported, or is not what its pool needs
├── ChannelClosed           the process at the other end of a channel is gone
│   └── ChannelFull         it does not read what is sent to it
├── ControlError            a control command failed
│   ├── NotReachable        no daemon answers at the endpoint (exit code 3)
│   ├── TimedOut            no answer in time (exit code 4)
│   └── Refused             the daemon will not do this (exit code 5)
├── DatabaseUnavailable     PostgreSQL can't be reached, or went away
├── DatabaseSetupError      the embedded server or procman's schema can't be set up
├── NoDatabase              the code needs a database and none is configured
├── UnitAborted             a limit ended the unit that is running (BaseException: applications must not swallow it)
└── BadRequest              bytes on the wire are not a request procman accepts
"""

from __future__ import annotations

# PostgreSQL, appendix A: serialization_failure and deadlock_detected. Another transaction was first; all of it done
# again may well succeed. Here, and not beside the driver, because it is asked of errors also where none is loaded.
LOST_AGAINST_ANOTHER = ("40001", "40P01")


class ProcmanError(Exception):
    """Base of every error that procman raises on purpose."""


class ConfigurationError(ProcmanError):
    """The configuration is wrong; ``str()`` lists every problem, one to a line."""


class AddressError(ProcmanError):
    """A listening address can't be bound."""


class ApplicationError(ProcmanError):
    """The application can't be imported or is not what its pool needs."""


class ChannelClosed(ProcmanError):
    """The process at the other end of the channel is gone."""


class ChannelFull(ChannelClosed):
    """The process at the other end of the channel does not read; for most purposes it is as good as gone."""


class ControlError(ProcmanError):
    """A control command failed; ``str()`` is the daemon's reason."""

    exit_code = 1


class NotReachable(ControlError):
    """No daemon answers at the endpoint."""

    exit_code = 3


class TimedOut(ControlError):
    """The daemon did not answer in time."""

    exit_code = 4


class Refused(ControlError):
    """The daemon understood the command and will not carry it out."""

    exit_code = 5


class CertificateError(ProcmanError):
    """A certificate or its private key can't be used; ``str()`` says which file and why."""


class DatabaseUnavailable(ProcmanError):
    """PostgreSQL can't be reached, or the connection was lost."""


class DatabaseSetupError(ProcmanError):
    """The embedded server or procman's schema can't be set up."""


class NoDatabase(ProcmanError):
    """The code needs a database and no ``[database] url`` is configured."""


class BadRequest(ProcmanError):
    """The bytes on the wire are not a request that procman accepts.

    ``status`` is the HTTP status code to answer with before closing the connection.
    """

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


class UnitAborted(BaseException):
    """A limit ended the running unit: ``reason`` is a word of the closed vocabulary.

    It derives from BaseException so that an application's ``except Exception`` does not swallow it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
