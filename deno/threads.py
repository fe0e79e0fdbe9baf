"""Threads that overlap their waiting: `threading`, `concurrent.futures` and `queue` on stacks that JSPI can suspend.

WebAssembly here has one thread, and plain Pyodide raises "can't start new thread". What model-written code wants of
threads is that many `llm_query` calls wait at once. So a started thread is a second Python stack: it runs until it
waits (for the host, for a lock, in `time.sleep`), then another goes on. Two primitives are replaced, the start of a
thread and the lock; everything else of the standard library is built on those and is left as it is.

Knows nothing of cells. `Waits` is set by the prelude.
"""

# The standard library's own private names are replaced here, which typeshed does not know.
# pyright: reportAttributeAccessIssue=false, reportOptionalCall=false

import _thread
import _threading_local
import asyncio
import itertools
import queue
import threading
import traceback


class Waits:
    """What JavaScript gave: `spawn(job)`, `park(key)` (a promise), `wake(key)`, `seconds()` of a clock that stands for
    `time.monotonic`, and `wait(promise)` of the prelude.
    """

    spawn = None
    seconds = None
    park = None
    wake = None
    wait = None


class Current:
    """Which stack runs now: what `get_ident` says. In the event loop, between stacks, it is the main one."""

    main = ident = _thread.get_ident()


idents = itertools.count(Current.main + 1)


def wait(run_sync, promise):
    """Suspend this stack until `promise` resolves; what says which stack and task runs is put back when it goes on."""
    ident, Current.ident = Current.ident, Current.main
    loop = asyncio.get_event_loop()
    # other tasks run meanwhile, and asyncio would not let them while this one counts as the current task
    task = asyncio.tasks._swap_current_task(loop, None)
    try:
        return run_sync(promise)
    finally:
        Current.ident = ident
        asyncio.tasks._swap_current_task(loop, task)


def get_ident():
    return Current.ident


class Lock:
    """A lock whose waiters are suspended stacks. Waiters are served in the order in which they came."""

    _last_key = 0

    def __init__(self):
        self._locked = False
        self._waiters = []

    def acquire(self, blocking=True, timeout=-1):
        if not self._locked:
            self._locked = True
            return True
        if not blocking or timeout == 0:
            return False
        if timeout is not None and timeout > threading.TIMEOUT_MAX:
            raise OverflowError("timeout value is too large")
        Lock._last_key += 1
        key = Lock._last_key
        self._waiters.append(key)
        try:
            # "" says that the lock was handed over, anything else that the time was up
            answer = Waits.wait(Waits.park(key, -1 if timeout is None or timeout < 0 else timeout * 1000))
        except BaseException:
            self._forget(key)
            raise
        if answer == "":
            return True
        self._forget(key)
        return False

    def _forget(self, key):
        if key in self._waiters:
            self._waiters.remove(key)
        else:
            # it was handed over while the wait was being ended
            self.release()

    def release(self):
        if not self._locked:
            raise RuntimeError("release unlocked lock")
        if self._waiters:
            Waits.wake(self._waiters.pop(0))
        else:
            self._locked = False

    def locked(self):
        return self._locked

    def __enter__(self):
        self.acquire()
        return True

    def __exit__(self, *exception):
        self.release()

    def _at_fork_reinit(self):
        self.__init__()


class Handle:
    """What `threading.Thread` keeps of the thread it started."""

    def __init__(self):
        self.ident = next(idents)
        self._done = Lock()
        self._done.acquire()

    def is_done(self):
        return not self._done.locked()

    def join(self, timeout=None):
        if self._done.acquire(timeout=-1 if timeout is None else timeout):
            self._done.release()

    def _set_done(self):
        if self._done.locked():
            self._done.release()


def start_joinable_thread(function, handle=None, daemon=True):
    handle = handle or Handle()

    def job():
        Current.ident = handle.ident
        try:
            function()
        except BaseException:
            # an exception that left this stack would be taken for the interpreter's end
            traceback.print_exc()
        finally:
            handle._set_done()

    ident = Current.ident
    try:
        # runs the job until it first waits
        Waits.spawn(job)
    finally:
        Current.ident = ident
    return handle


def start_new_thread(function, args, kwargs=None):
    return start_joinable_thread(lambda: function(*args, **(kwargs or {}))).ident


def install():
    """Put the two primitives where the standard library looks for them."""
    _thread.allocate_lock = _thread.lock = _thread.LockType = Lock
    _thread.start_new_thread = start_new_thread
    _thread.start_joinable_thread = start_joinable_thread
    _thread.get_ident = threading.get_ident = get_ident
    threading.local = _threading_local.local
    threading.Lock = threading._allocate_lock = threading._LockType = Lock
    threading.RLock = threading._PyRLock
    threading._CRLock = None
    threading._start_joinable_thread = start_joinable_thread
    threading._ThreadHandle = Handle
    threading._shutdown_locks_lock = Lock()
    threading._time = lambda: Waits.seconds()
    threading._active_limbo_lock = threading._PyRLock()
    queue.SimpleQueue = queue._PySimpleQueue


install()
