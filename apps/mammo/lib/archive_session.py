"""How an archive is asked: with the login of the settings, no longer than it takes, and with refusals for what fails.

Not here: what it is asked (archive).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
from monailabel.config import settings
from requests.adapters import HTTPAdapter

from .errors import RequestRefused

LOGIN_VARIABLES = "MONAI_LABEL_DATASTORE_USERNAME and MONAI_LABEL_DATASTORE_PASSWORD"
AGAIN = "Check that the archive runs; labels are kept here and sent later"
_TIMEOUT = (5.0, 60.0)  # s, to connect and between two bytes


def impatient_session(login: tuple[str, str] | None) -> requests.Session:
    """A session that asks for DICOM JSON and gives up on an archive that does not answer, or breaks off.

    Args:
        login: name and password for HTTP Basic authentication.
    """
    session = requests.Session()
    session.mount("http://", _Impatient())
    session.mount("https://", _Impatient())
    session.auth = login
    session.headers["Accept"] = "application/dicom+json, */*;q=0.1"  # unless a request names another
    return session


def archive_login() -> tuple[str, str] | None:
    """Name and password for the archive, from MONAI Label's variables or else their deprecated names; None if unset."""
    name = settings.MONAI_LABEL_DATASTORE_USERNAME or settings.MONAI_LABEL_DICOMWEB_USERNAME
    password = settings.MONAI_LABEL_DATASTORE_PASSWORD or settings.MONAI_LABEL_DICOMWEB_PASSWORD
    return (name, password) if name else None


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what goes wrong between here and the archive into a refusal without address, login or content."""
    try:
        yield
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise RequestRefused(503, f"the archive does not answer ({type(error).__name__})", AGAIN) from None
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            raise RequestRefused(503, "the archive refuses the login", f"Set {LOGIN_VARIABLES}") from None
        if status in (502, 503, 504):
            raise RequestRefused(503, f"the archive is not available (status {status})", AGAIN) from None
        raise RequestRefused(502, f"the archive answers with status {status}", AGAIN) from None
    except requests.RequestException as error:
        raise RequestRefused(502, f"asking the archive failed ({type(error).__name__})", AGAIN) from None
    except RequestRefused:
        raise
    except Exception as error:  # noqa: BLE001 - the client library parses what came with whatever it has
        reason = f"what the archive sends cannot be understood ({type(error).__name__})"
        raise RequestRefused(502, reason, AGAIN) from None


class _Impatient(HTTPAdapter):
    """Gives up on an archive that breaks off, too, which the client library takes for an empty list."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        answer = super().send(request, *args, **{**kwargs, "timeout": kwargs.get("timeout") or _TIMEOUT})
        if request.method == "GET" and answer.status_code == 200 and not answer.content:
            header = answer.headers
            if header.get("Content-Length") != "0" and header.get("Transfer-Encoding") != "chunked":
                raise requests.ConnectionError  # nothing says that this is all: it was closed amid the header
        return answer
