"""The error tree: what is caught by what, and what each one carries."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from rlm_wasm import Completion, Trajectory, Usage, errors

TREE = {
    errors.RLMError: Exception,
    errors.LimitExceeded: errors.RLMError,
    errors.ClientError: errors.RLMError,
    errors.RetrieverError: errors.RLMError,
    errors.FunctionError: errors.RLMError,
    errors.SandboxError: errors.RLMError,
    errors.SandboxStartError: errors.SandboxError,
    errors.PackageError: errors.SandboxStartError,
    errors.SandboxCrashed: errors.SandboxError,
    errors.SandboxTimeout: errors.SandboxError,
    errors.ProtocolError: errors.SandboxError,
}


def test_the_tree_has_the_branches_it_is_said_to_have_and_no_others() -> None:
    defined = {error for error in vars(errors).values() if inspect.isclass(error) and issubclass(error, Exception)}
    assert defined == set(TREE)
    for error, parent in TREE.items():
        assert error.__bases__[0] is parent
        assert error.__doc__


def test_a_sandbox_timeout_is_a_timeout_error_too() -> None:
    with pytest.raises(TimeoutError) as caught:
        raise errors.SandboxTimeout("too long", seconds=5, lost=("a",), output="printed")
    assert isinstance(caught.value, errors.SandboxTimeout)
    assert isinstance(caught.value, errors.SandboxError)
    assert (caught.value.seconds, caught.value.lost, caught.value.output) == (5, ("a",), "printed")
    assert str(caught.value) == "too long"


def test_a_limit_says_which_how_much_was_used_and_how_much_is_allowed() -> None:
    error = errors.LimitExceeded("usd", 0.5, 0.25, partial=["a reply"])
    assert (error.limit, error.used, error.allowed, error.partial) == ("usd", 0.5, 0.25, ["a reply"])
    assert str(error) == "limit reached: usd (0.5 used of 0.25 allowed)"
    assert errors.LimitExceeded("calls", 3, 2).partial is None


def test_a_client_error_carries_the_status_if_there_was_one() -> None:
    assert errors.ClientError("refused", status=429).status == 429
    assert errors.ClientError("no connection").status is None


@pytest.mark.parametrize(
    ("status", "transient"),
    [(None, False), (200, False), (400, False), (408, True), (409, True), (429, True), (500, True), (529, True)],
)
def test_a_client_error_may_pass_if_it_says_so_or_else_by_its_status(status: int | None, transient: bool) -> None:
    assert errors.ClientError("no", status=status).transient is transient
    assert errors.ClientError("no", status=status, transient=not transient).transient is not transient
    assert errors.ClientError("no", status=429, retry_after=7.0).retry_after == 7.0


def test_a_function_error_carries_its_text_and_what_was_had() -> None:
    error = errors.FunctionError("for the model", partial=[1])
    assert (str(error), error.partial) == ("for the model", [1])
    assert errors.FunctionError("for the model").partial is None


def test_a_crash_carries_how_the_child_ended_and_what_went_with_it() -> None:
    error = errors.SandboxCrashed("gone", exit_code=-9, stderr_tail="last words", lost=("x",), output="printed")
    assert (error.exit_code, error.stderr_tail, error.lost, error.output) == (-9, "last words", ("x",), "printed")
    bare = errors.SandboxCrashed("gone")
    assert (bare.exit_code, bare.stderr_tail, bare.lost, bare.output) == (None, "", (), "")


@pytest.mark.parametrize(
    "error",
    [
        errors.RLMError("text"),
        errors.LimitExceeded("usd", 0.5, 0.25, partial=["a reply"]),
        errors.ClientError("refused", status=429, transient=True, retry_after=7.0),
        errors.RetrieverError("gone"),
        errors.FunctionError("for the model", partial=[1]),
        errors.SandboxStartError("no Deno"),
        errors.SandboxCrashed("gone", exit_code=-9, stderr_tail="last words", lost=("x",), output="printed"),
        errors.SandboxTimeout("too long", seconds=5, lost=("a",), output="printed"),
        errors.ProtocolError("no frame"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_goes_through_a_pickle_and_a_copy_whole(error: errors.RLMError) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.args == error.args
        assert vars(again) == vars(error)


def test_an_error_that_carries_a_completion_goes_through_a_pickle() -> None:
    done = Completion(
        question="q",
        response=None,
        stopped_by="calls",
        usage=Usage(),
        trajectory=Trajectory(),
        seconds=1.0,
        run="r",
        depth=0,
        limit=errors.LimitExceeded("calls", 3, 2),
    )
    with pytest.raises(errors.LimitExceeded) as caught:
        done.raise_for_stop()
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.limit, again.used, again.allowed) == ("calls", 3, 2)
    assert again.partial.question == "q"
    assert again.partial.limit.used == 3
