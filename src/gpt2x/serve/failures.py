"""Errors as OpenAI's API sends them.

400 names the field of the body that is wrong. 422 is for a body that is not a JSON object at all,
of which no field can be named.
"""

from __future__ import annotations

import re

import msgspec

from gpt2x.serve.replies import Error, ErrorReply


class RequestError(Exception):
    """A request that is not answered as it asks.

    Attributes:
        status: of the response.
        param: the field of the body that is wrong; None if no single one is.
        type: a word for programs, that of the status.
        code: another one; by default that of the status as well.
        headers: further ones of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        *,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.headers = status, param, headers or {}
        kind, word = _WORDS.get(status, _WORDS[400 if status < 500 else 500])
        self.type, self.code = kind, code or word

    @property
    def body(self) -> ErrorReply:
        """The body of the response."""
        return ErrorReply(Error(str(self), self.type, self.param, self.code))


#: The type and the code of each status.
_WORDS = {
    400: ("invalid_request_error", "bad_request"),
    401: ("authentication_error", "unauthorized"),
    404: ("not_found_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    413: ("invalid_request_error", "content_too_large"),
    422: ("invalid_request_error", "unprocessable_content"),
    429: ("rate_limit_error", "too_many_requests"),
    500: ("server_error", "internal_server_error"),
    503: ("service_unavailable_error", "service_unavailable"),
}


def of_decoding(error: Exception) -> RequestError:
    """Return the error of a body that msgspec refuses."""
    if not isinstance(error, msgspec.ValidationError):
        return RequestError(422, f"The body cannot be read: {error}.")
    found = re.fullmatch(
        r"(?P<what>.*?)(?: - at (?:`key` in )?`\$\.?(?P<place>[^`]*)`)?", str(error), re.DOTALL
    )
    assert found is not None
    what, place = found["what"], found["place"] or ""
    name = re.split(r"[.\[]", place)[0]
    if missing := re.search(r"missing required field `(\w+)`", what):
        return RequestError(400, f"{what} in {place or 'the body'}.", name or missing[1])
    if not name:
        return RequestError(422, f"The body must be a JSON object: {what}.")
    return RequestError(400, f"{place}: {what}.", name)
