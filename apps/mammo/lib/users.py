"""Who sends the request that is being answered. Not here: how that is proved (security)."""

from __future__ import annotations

from contextvars import ContextVar

current_user: ContextVar[str] = ContextVar("current_user", default="annotator")
"""Name of the person behind the current request, safe as a file's name; set for each request before it is answered."""
