"""Which heads of attention go with which widths."""

from __future__ import annotations

import pytest

from lemis.errors import UsageError
from lemis.layers.swin import check_heads


def test_heads_divide_the_channels_of_their_own_stage() -> None:
    check_heads((3, 6, 12, 24), 12, "embedding", fits="12")
    check_heads((4, 8, 16, 32), 4, "embedding", fits="12")
    with pytest.raises(UsageError, match=r"heads=\[3, 6, 16, 24\]: 16 heads for 24 channels") as caught:
        check_heads((3, 6, 16, 24), 6, "feature_size", fits="every feature_size")
    assert "feature_size times 1, 2, 4 and 8" in caught.value.allowed
    assert caught.value.next == "backbone.heads=[3,6,12,24] fits every feature_size"
