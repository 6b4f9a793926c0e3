"""Errors as OpenAI's API sends them."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any


class RequestError(Exception):
    """A request that is not answered as it asks.

    Attributes:
        status: of the response.
        param: the field of the body that is wrong; None if no single one is.
        headers: further ones of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.headers = status, param, headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The body of the response."""
        return {
            "error": {
                "message": str(self),
                "type": _TYPES.get(self.status, "server_error"),
                "param": self.param,
                "code": HTTPStatus(self.status).name.lower(),
            }
        }


_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}


def of_validation(error: Exception) -> RequestError:
    """Return the error of a body that msgspec refuses.

    It is 422 if the body is not JSON at all, else 400 with the name of the field.
    """
    found = re.fullmatch(r"(?P<what>.*?)(?: - at `\$\.?(?P<place>[^`]*)`)?", str(error), re.DOTALL)
    assert found is not None
    place = found["place"] or ""
    if missing := re.search(r"missing required field `(\w+)`", str(error)):
        return RequestError(400, f"{missing[1]} is required.", missing[1])
    name = re.split(r"[.\[]", place)[0] or None
    what = found["what"]
    return RequestError(400, f"{place}: {what}." if place else f"The body is wrong: {what}.", name)
