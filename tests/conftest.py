"""What every test stands on: the event loop it runs on, and a cache of memory images that is nobody's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "both_backends: run the async tests on trio too, not on asyncio alone")


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """asyncio; where a test, class or module is marked `both_backends`, trio too."""
    return getattr(request, "param", "asyncio")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "anyio_backend" in metafunc.fixturenames and metafunc.definition.get_closest_marker("both_backends"):
        metafunc.parametrize("anyio_backend", ["asyncio", "trio"], indirect=True, scope="module")


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Memory images are kept in a folder of this session's own: made once, and the user's are never touched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLM_WASM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
