"""Images that a cell hands to a model: what is let through, and how each provider is sent them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm_wasm import RLM, ScriptedClient
from rlm_wasm.clients.anthropic import _blocks
from rlm_wasm.clients.gemini import _parts
from rlm_wasm.clients.openai import _chat_message
from rlm_wasm.errors import FunctionError
from rlm_wasm.images import MOST, MOST_BYTES, Image, checked
from rlm_wasm.prompts import Message

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\n" + b"rest"


async def ask(code: str, **chosen: Any) -> tuple[ScriptedClient, Any]:
    root = ScriptedClient([f"```repl\n{code}\n```"], model="root")
    sub = ScriptedClient(rules={"": "a cat"}, model="sub")
    with anyio.fail_after(120):
        return sub, await RLM(root, sub_model=sub, **chosen).acompletion("What is on it?", context=PNG)


async def test_bytes_of_a_context_reach_the_sub_model_as_an_image() -> None:
    sub, done = await ask("FINAL(llm_query('What is this?', images=context))")
    assert done.response == "a cat"
    assert sub.calls[0][0].images == (Image(PNG, "image/png"),)


async def test_a_file_is_taken_out_of_an_allowed_folder_and_from_nowhere_else(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "cat.png").write_bytes(PNG)
    (tmp_path / "secret.png").write_bytes(PNG)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    sub, done = await ask("FINAL(llm_query('What?', images=['cat.png']))", image_sources=[folder])
    assert done.response == "a cat"
    assert sub.calls[0][0].images[0].content == PNG
    for name in ("../secret.png", str(tmp_path / "secret.png"), "link.png", "missing.png", ".", ""):
        with pytest.raises(FunctionError, match="no such image in a folder that is allowed"):
            checked([name], [folder])
    with pytest.raises(FunctionError, match="no such image in a folder that is allowed"):
        checked("cat.png", [])


def test_an_address_goes_on_only_where_its_beginning_is_allowed() -> None:
    address = "https://pictures.example/cat.png"
    assert checked(address, ["https://pictures.example/"]) == (Image(url=address),)
    for allowed in ([], ["https://other.example/"], [Path("/")]):
        with pytest.raises(FunctionError, match="are not allowed here"):
            checked(address, allowed)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (b"MZ\x90", "PNG, JPEG, GIF or WebP"),
        (PNG + b"x" * MOST_BYTES, "at most 20,000,000"),
        ([PNG] * (MOST + 1), "at most 20 can be sent"),
        (5, "must be bytes, a path or an address"),
    ],
)
def test_what_is_no_image_is_refused(given: object, why: str) -> None:
    with pytest.raises(FunctionError, match=why):
        checked(given, [])


@pytest.mark.parametrize(
    ("content", "kind"),
    [(PNG, "png"), (b"\xff\xd8\xff\xe0", "jpeg"), (b"GIF89a", "gif"), (b"RIFF\x00\x00\x00\x00WEBPVP8", "webp")],
)
def test_the_kind_of_an_image_is_told_by_its_bytes(content: bytes, kind: str) -> None:
    [image] = checked(content, [])
    assert image.media_type == f"image/{kind}"


def test_each_provider_is_sent_images_in_its_own_form() -> None:
    message = Message("user", "What?", images=(Image(PNG, "image/png"), Image(url="https://pictures.example/a.png")))
    text = base64.b64encode(PNG).decode()
    assert _chat_message(message, "run_python")["content"] == [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}"}},
        {"type": "image_url", "image_url": {"url": "https://pictures.example/a.png"}},
        {"type": "text", "text": "What?"},
    ]
    assert _blocks(message, "run_python") == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": text}},
        {"type": "image", "source": {"type": "url", "url": "https://pictures.example/a.png"}},
        {"type": "text", "text": "What?"},
    ]
    assert _parts(message, "run_python") == [
        {"inline_data": {"data": PNG, "mime_type": "image/png"}},
        {"file_data": {"file_uri": "https://pictures.example/a.png"}},
        {"text": "What?"},
    ]
