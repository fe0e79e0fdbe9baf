"""Images that a cell hands to a model that sees: which the host lets through, and in what form they travel.

Bytes are let through if they are an image of a kind that providers take. A path or an address is let through only where
the caller has allowed its folder or its beginning. Knows no client and no budget.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import msgspec

from rlm_wasm.errors import FunctionError

# what OpenAI, Anthropic and Gemini take in one request, roughly; it also bounds what a cell can make the host hold
MOST = 20
MOST_BYTES = 20_000_000
# what an image is taken to cost where nobody has counted: about that of one of 1024 x 1024 pixels
TOKENS = 1500
_KINDS = (
    (b"\x89PNG\r\n\x1a\n", 0, "image/png"),
    (b"\xff\xd8\xff", 0, "image/jpeg"),
    (b"GIF8", 0, "image/gif"),
    (b"WEBP", 8, "image/webp"),
)


class Image(msgspec.Struct, frozen=True):
    """An image of a message: its `content` with its `media_type`, or the `url` from which the provider fetches it."""

    content: bytes = b""
    media_type: str = ""
    url: str = ""

    @property
    def base64(self) -> str:
        """The content as text."""
        return b64encode(self.content).decode()


def checked(given: object, allowed: Sequence[str | Path]) -> tuple[Image, ...]:
    """The images that a cell gave: bytes, paths and addresses, alone or in a list.

    `allowed`: folders (`Path`) out of which files may be taken, and beginnings of addresses (str). Raises FunctionError
    for what is no image, too large, or not allowed.
    """
    if given is None:
        return ()
    items = cast("Sequence[object]", given) if isinstance(given, (list, tuple)) else [given]
    if len(items) > MOST:
        raise FunctionError(f"there are {len(items)} images; at most {MOST} can be sent at once")
    return tuple(_checked(item, allowed) for item in items)


def _checked(item: object, allowed: Sequence[str | Path]) -> Image:
    if isinstance(item, bytes):
        return _image(item)
    if not isinstance(item, str):
        raise FunctionError(f"an image must be bytes, a path or an address, not {type(item).__name__}")
    if "://" in item[:20]:
        if any(isinstance(each, str) and item.startswith(each) for each in allowed):
            return Image(url=item)
        raise FunctionError("images from this address are not allowed here: give the image's bytes")
    for folder in allowed:
        if isinstance(folder, Path):
            root = folder.resolve()
            path = (root / item).resolve()
            # a link may lead out of the folder that was named
            if path.is_relative_to(root) and path.is_file():
                if path.stat().st_size > MOST_BYTES:
                    raise FunctionError(f"the image is larger than {MOST_BYTES:,} bytes")
                return _image(path.read_bytes())
    raise FunctionError("there is no such image in a folder that is allowed here: give the image's bytes")


def _image(content: bytes) -> Image:
    if len(content) > MOST_BYTES:
        raise FunctionError(f"the image has {len(content):,} bytes; at most {MOST_BYTES:,} can be sent")
    for mark, start, media_type in _KINDS:
        if content[start : start + len(mark)] == mark:
            return Image(content, media_type)
    raise FunctionError("these bytes are no image that models take: PNG, JPEG, GIF or WebP")
