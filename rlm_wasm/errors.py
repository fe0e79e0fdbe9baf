"""The error tree: everything rlm_wasm raises for a reason that is not the caller's own mistake.

A mistake in model-written code is never one of these: it is `Executed.error`, text for the model to read. A caller's
mistake is a plain `TypeError` or `ValueError`. What is left, a failure of ours or of something we depend on, is here.
"""

from __future__ import annotations

from typing import Any


class RLMError(Exception):
    """The root of every error that rlm_wasm raises on purpose.

    `partial` is what had been reached when it was raised: out of `RLM.completion` the `Completion` so far, with its
    usage and trajectory; None where there is nothing.
    """

    partial: object = None

    def __reduce__(self) -> tuple[Any, ...]:
        # pickle's own way calls the class with the message alone, which is not what any of them is made of
        return _rebuilt, (type(self), self.args, self.__dict__)


def _rebuilt(kind: type[RLMError], args: tuple[Any, ...], fields: dict[str, Any]) -> RLMError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(fields)
    return error


class LimitExceeded(RLMError):
    """A limit of the run would be passed by what was asked for, so it was not done.

    `limit` names the field of `Limits`; `used` and `allowed` are in that field's unit; `partial` is what had been
    reached by then (for a completion the `Completion`, for a batch the replies in order, None where there is none).
    """

    def __init__(self, limit: str, used: float, allowed: float, partial: object = None) -> None:
        super().__init__(f"limit reached: {limit} ({used:g} used of {allowed:g} allowed)")
        self.limit = limit
        self.used = used
        self.allowed = allowed
        self.partial = partial


class ClientError(RLMError):
    """A model could not be asked, or what it sent back is no reply. The vendor's error is `__cause__`.

    `status` is the HTTP status (None where the failure had none). `transient` says whether the same call may pass
    later; where the raiser does not say, 408, 409, 429 and 5xx may. `retry_after` is the pause that the server asked
    for, in seconds (None where it asked for none).
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        transient: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        passing = status is not None and (status in (408, 409, 429) or 500 <= status < 600)
        self.status = status
        self.transient = passing if transient is None else transient
        self.retry_after = retry_after


class RetrieverError(RLMError):
    """A collection could not be searched, or what its back end sent is no answer. Its own error is `__cause__`."""


class FunctionError(RLMError):
    """Raised by a caller's own host function: its text is shown to the code in the sandbox.

    Of any other exception only the class name goes down, because a text may hold keys and paths. `partial` is what
    was had all the same (for a batch the answers in order, None where there is none); the code sees it too.
    """

    def __init__(self, message: str, *, partial: object = None) -> None:
        super().__init__(message)
        self.partial = partial


class SandboxError(RLMError):
    """The sandbox, as a process or as a protocol, failed."""


class SandboxStartError(SandboxError):
    """A sandbox could not be started: no Deno, a wrong version, missing or damaged runtime files.

    The message names the command that mends it.
    """


class PackageError(SandboxStartError):
    """A package cannot be had for the sandbox, or is not what it should be.

    The message names it, the platform that the sandbox is, and what was tried.
    """


class SandboxCrashed(SandboxError):
    """The child process ended without saying goodbye.

    `exit_code` is negative for a signal, None if not known; `stderr_tail` is the last it wrote to stderr, with
    control characters escaped; `lost` names the variables that were in it; `output` is what the cell had printed.
    """

    def __init__(
        self,
        message: str,
        *,
        exit_code: int | None = None,
        stderr_tail: str = "",
        lost: tuple[str, ...] = (),
        output: str = "",
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.stderr_tail = stderr_tail
        self.lost = lost
        self.output = output


class SandboxTimeout(SandboxError, TimeoutError):
    """A cell did not end after it was interrupted, and was ended together with its process.

    `seconds` is the deadline it had; `lost` names the variables that were lost with it; `output` is what the cell
    had printed.
    """

    def __init__(self, message: str, *, seconds: float, lost: tuple[str, ...] = (), output: str = "") -> None:
        super().__init__(message)
        self.seconds = seconds
        self.lost = lost
        self.output = output


class ProtocolError(SandboxError):
    """The child sent what is not a frame, or a frame that it may not send. It is treated as hostile and killed."""
