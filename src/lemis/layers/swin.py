"""What networks of Swin transformer stages ask of their settings (Liu et al., ICCV 2021,
https://arxiv.org/abs/2103.14030): four stages, each of half the size and twice the channels of the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from lemis.errors import UsageError

STAGES = 4

Counts = Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=STAGES, max_length=STAGES)]


def check_heads(heads: Sequence[int], width: int, setting: str, *, fits: str) -> None:
    """Refuse heads of attention that do not divide the channels of their stage.

    Args:
        heads: Of each stage, finest first.
        width: Channels of the finest stage.
        setting: That gives this width.
        fits: Which of its values go with 3, 6, 12 and 24 heads, for the message.

    Raises:
        UsageError: Some do not.
    """
    for stage, count in enumerate(heads):
        channels = width * 2**stage
        if channels % count:
            raise UsageError(
                f"heads={list(heads)}: {count} heads for {channels} channels",
                allowed=f"heads that divide the channels of their stage: {setting} times 1, 2, 4 and 8",
                next=f"backbone.heads=[3,6,12,24] fits {fits}",
            )
