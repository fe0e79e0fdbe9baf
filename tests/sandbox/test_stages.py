"""What a sandbox's start has reached by when, as its child tells."""

from __future__ import annotations

import time

import anyio
import pytest

from rlm_wasm import Sandbox

pytestmark = pytest.mark.anyio


async def test_a_start_tells_its_stages_in_order_and_in_the_hosts_time() -> None:
    before = 1000 * time.time()
    with anyio.fail_after(60):
        async with Sandbox() as sandbox:
            after = 1000 * time.time()
            told = sandbox.stages
    assert [name for name, _ in told][:2] == ["Deno and the broker's code", "the jail's own code"]
    assert [name for name, _ in told][-2:] == ["the realm frozen and tested", "a cell tried"]
    times = [at for _, at in told]
    assert times == sorted(times)
    # both clocks are the machine's, of which each side may have read a fraction late
    assert before - 5 <= times[0] <= times[-1] <= after + 5
