"""What became of a reload, as a value: logged, shown by `egress status`, returned by `egress reload`, counted."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from egress_gateway.errors import ConfigError, ConfigErrors

#: Errors kept per outcome; the rest is counted. A status answer stays within a few hundred KiB.
MAX_ERRORS: Final = 50

Result = Literal["changed", "unchanged", "refused", "failed"]
#: `changed`: a new generation is in force. `unchanged`: the files say what is in force already. `refused`: the files,
#: or the data plane, say no. `failed`: the answer is not known to be either (time-out, no memory, a bug).
RESULTS: Final[tuple[Result, ...]] = ("changed", "unchanged", "refused", "failed")


class Trouble(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One reason for a refusal: where (empty when no file is to blame), what, and what to do."""

    code: str
    message: str
    fix: str = ""
    file: str = ""
    line: int = 0
    column: int = 0
    #: The whole of it as a person reads it, source line and caret included.
    shown: str = ""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    result: Result
    #: What asked for it: `start`, `file`, `signal`, `command`; several joined by `+`.
    cause: str
    #: Unix seconds at which it ended.
    time: float
    #: Seconds from the request to the end.
    seconds: float
    #: The generation in force afterwards, whatever the result.
    generation: int
    digest: str | None
    #: Live flows that the new policy denies and that end after their grace.
    closing: int = 0
    errors: list[Trouble] = []
    #: Errors beyond MAX_ERRORS.
    more_errors: int = 0

    @property
    def ok(self) -> bool:
        return self.result in ("changed", "unchanged")

    def headline(self) -> str:
        """One line for the log."""
        where = f"generation {self.generation}" if self.generation else "no policy in force"
        took = f"{self.seconds * 1000:.0f} ms"
        match self.result:
            case "changed":
                closing = (
                    f", {self.closing} {'flow' if self.closing == 1 else 'flows'} now denied" if self.closing else ""
                )
                return f"reload ({self.cause}): {where} in force, digest {short(self.digest)}{closing}, {took}"
            case "unchanged":
                return f"reload ({self.cause}): nothing changed, {where} stays, {took}"
            case "refused" | "failed":
                count = len(self.errors) + self.more_errors
                plural = "error" if count == 1 else "errors"
                return f"reload ({self.cause}): {self.result}, {count} {plural}, {where} stays, {took}"

    def render(self) -> str:
        """The headline and every error below it."""
        lines = [self.headline(), *(trouble.shown for trouble in self.errors)]
        if self.more_errors:
            lines.append(f"… and {self.more_errors} more")
        return "\n".join(lines)


def short(digest: str | None) -> str:
    """Enough of a digest to tell two policies apart by eye."""
    return digest[:12] if digest else "none"


def from_config(errors: ConfigErrors) -> tuple[list[Trouble], int]:
    """The first MAX_ERRORS, and how many more there are."""
    return [_from_config_error(error) for error in errors.errors[:MAX_ERRORS]], max(0, len(errors.errors) - MAX_ERRORS)


def _from_config_error(error: ConfigError) -> Trouble:
    return Trouble(
        code=error.code,
        message=error.message,
        fix=error.fix,
        file=error.file,
        line=error.line,
        column=error.column,
        shown=error.render(),
    )


def trouble(code: str, message: str, fix: str) -> Trouble:
    """A trouble without a place in a file."""
    return Trouble(code=code, message=message, fix=fix, shown=f"{message}\n  fix: {fix}" if fix else message)
