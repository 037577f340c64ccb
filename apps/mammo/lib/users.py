"""Who sends the request that is being answered, and how that is proved: tokens and cookies. Not here: what is refused.

A token is looked for in every known one in the same time, is never logged, and is kept in memory as its digest alone.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path

from .names import SAFE_NAME

ANYBODY = "annotator"
"""The name of everybody while nobody has to say who they are, and of who knows the one token there may be instead."""
current_user: ContextVar[str] = ContextVar("current_user", default=ANYBODY)
"""Name of the person behind the current request, safe as a file's name; set only where that person has proved it."""

TOKEN_VARIABLE = "MAMMO_TOKEN"
SHORTEST_TOKEN = 16
COOKIE_SECONDS = 12 * 3600


class Users:
    """The people who may use the server, each with a token of their own. Empty: nobody has to say who they are.

    Args:
        tokens: token by name.

    Raises:
        ValueError: a name is not safe as a file's name, a token is short or not printable ASCII, or two are the same.
    """

    def __init__(self, tokens: Mapping[str, str]) -> None:
        for name, token in tokens.items():
            if not SAFE_NAME.fullmatch(name):
                raise ValueError("a user's name has other characters than letters, digits, - and _")
            if len(token) < SHORTEST_TOKEN or not (token.isascii() and token.isprintable()) or " " in token:
                raise ValueError(
                    f"the token of {name} is not {SHORTEST_TOKEN} or more printable ASCII characters without spaces: "
                    "make one with `openssl rand -hex 24`"
                )
        if len(set(tokens.values())) < len(tokens):
            raise ValueError("two users have the same token")
        self._digests = {name: _digest(token) for name, token in tokens.items()}

    def __len__(self) -> int:
        return len(self._digests)

    @property
    def tell_apart(self) -> bool:
        """Whether a token says who somebody is; one that all share says only that they may come in."""
        return set(self._digests) != {ANYBODY}

    def by_token(self, token: str) -> str | None:
        """Name of the user with this token; None if there is none. Takes the same time for every token."""
        given, found = _digest(token), None
        for name, digest in self._digests.items():
            if hmac.compare_digest(digest, given):
                found = name
        return found

    def cookie(self, name: str) -> str:
        """A cookie's value that proves for twelve hours that its bearer knew the token of `name`."""
        until = str(int(time.time()) + COOKIE_SECONDS)
        return f"{name}.{until}.{self._seal(name, until)}"

    def by_cookie(self, cookie: str) -> str | None:
        """Name of the user to whom a cookie was given; None if it is forged, has expired, or the token has changed."""
        name, _, rest = cookie.partition(".")
        until, _, seal = rest.partition(".")
        if name not in self._digests or not (until.isascii() and until.isdigit()) or len(until) > 12:
            return None
        genuine = hmac.compare_digest(self._seal(name, until).encode(), seal.encode())
        return name if genuine and int(until) > time.time() else None

    def _seal(self, name: str, until: str) -> str:
        return hmac.new(self._digests[name], f"cookie {name} {until}".encode(), hashlib.sha256).hexdigest()


def is_anybody(user: str) -> bool:
    """Whether a name says nothing of who sends the current request: nobody has to prove theirs, and none was given."""
    return user == ANYBODY and current_user.get(None) is None


def read_users(conf: Mapping[str, str], environment: Mapping[str, str]) -> Users:
    """The users that the settings name.

    `--conf users FILE` names a file of lines `name: token` (# begins a comment); the variable MAMMO_TOKEN holds the
    one token of a user called `annotator` (`ANYBODY`), whom no file may name. A token itself is no `--conf`: MONAI
    Label logs these, and every user of the machine sees a command line.

    Raises:
        ValueError: a setting, or the file, cannot be used; the message names the key and holds no token.
    """
    if "token" in conf:
        raise ValueError(
            f"a token on the command line is seen by others: set the environment variable {TOKEN_VARIABLE}, or name a "
            "file of users with --conf users"
        )
    if "MAMMO_USERS" in environment:  # once the name of that file; passed over, the server would be open
        raise ValueError("the variable MAMMO_USERS counts no longer: name the file with --conf users, and unset it")
    file = conf.get("users")
    tokens = _tokens_of(Path(file)) if file else {}
    if single := environment.get(TOKEN_VARIABLE):
        tokens[ANYBODY] = single
    try:
        return Users(tokens)
    except ValueError as error:
        raise ValueError(f"{'conf users' if file else TOKEN_VARIABLE}: {error}") from None


def _tokens_of(file: Path) -> dict[str, str]:
    """Token by name, of a file of users."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"conf users: {file} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ValueError(f"conf users: {file} is no text in UTF-8") from None
    tokens = {}
    for number, line in enumerate(lines, 1):
        content = line.partition("#")[0].strip()
        name, colon, token = (part.strip() for part in content.partition(":"))
        if content and (not colon or name in tokens):
            raise ValueError(f"conf users: line {number} of {file} is not `name: token`, or names somebody twice")
        if name == ANYBODY:
            raise ValueError(
                f"conf users: line {number} of {file} names {ANYBODY}, as everybody is called who has no name: choose "
                f"another name, or set {TOKEN_VARIABLE}"
            )
        if content:
            tokens[name] = token
    if not tokens:
        raise ValueError(f"conf users: {file} names no user")
    return tokens


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
