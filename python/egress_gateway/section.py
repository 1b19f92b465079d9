"""What all parts of the policy language are made of."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

import msgspec
from msgspec import Meta

# The data plane counts in 32 bits, and the highest number stands for no bound.
_MOST: Final = 2**32 - 2

Count = Annotated[int, Meta(ge=1, le=_MOST)]


def doc(description: str, *examples: object) -> Meta:
    return Meta(description=description, examples=list(examples))


class Section(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What all parts of the language share. `later` names keys of the language that this version does not have, and
    what to do without them."""

    later: ClassVar[dict[str, str]] = {}
