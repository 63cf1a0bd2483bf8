"""A client for files: streamed to disk, resumed where a download broke off, and published only when they are whole.

Attempts, deadline, redirects, classification and redaction are those of `ApiClient`. A file that is shorter than its listing says, or
another one, is a file that is being published: it is fetched again from its beginning before that is a failure.
"""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from etl_assets.core.sources.http.client import ApiClient, ApiRefused, ApiUnavailable, Call, Failed, malformed
from etl_assets.core.sources.http.outcomes import (
    MALFORMED_RULE,
    TOO_LONG_RULE,
    Action,
    MalformedAnswer,
    Rule,
    refuse_page,
)
from etl_assets.errors import TransientError

if TYPE_CHECKING:
    import requests

CHUNK_BYTES = 256 * 1024
_FOLDER_PREFIX = "etl-assets-files-"
# Longer than any folder is used without something new in it.
_ABANDONED_S = 24 * 3_600
_WHOLE = (200, 203)
_PART = 206
_NO_SUCH_RANGE = 416
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_DIFFERS_RULE = Rule(
    Action.RETRY, False, "it may be half published: try again later; if it lasts, tell those who run {base_url}"
)


class FileDiffers(ApiUnavailable):
    """What arrived whole, at each attempt up to the last, is not what was expected.

    Attributes:
        reason: whether the size or the MD5 differs.
        what: how, in words.
    """

    def __init__(self, message: str, *, reason: Literal["size", "md5"], what: str, status: int | None, attempts: int):
        super().__init__(message, status=status, attempts=attempts)
        self.reason = reason
        self.what = what


class NotStored(TransientError):
    """The disk does not take a file: it is full, or the folder is gone or cannot be written to."""


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for what is fetched, which is gone with all that is in it as soon as it is left.

    A killed process cannot do that: what is older than a day is of one, and goes when the next folder is made.

    Raises:
        NotStored: if none can be made.
    """
    try:
        _sweep(Path(tempfile.gettempdir()))
        temporary = tempfile.TemporaryDirectory(prefix=_FOLDER_PREFIX)
    except OSError as error:
        raise NotStored(f"no temporary folder can be made ({error.strerror or error}): set TMPDIR to one") from None
    with temporary as folder:
        yield Path(folder)


def _sweep(place: Path) -> None:
    """Remove the folders that killed processes have left; what belongs to others stays."""
    for folder in place.glob(f"{_FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError):  # gone by now
            status = folder.lstat()
            if time.time() - status.st_mtime > _ABANDONED_S and status.st_uid == os.geteuid():
                shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Expected:
    """Size and checksum that a file must have; None: not known."""

    size: int | None = None
    md5: str | None = None


class FileClient(ApiClient):
    """An `ApiClient` that fetches files; `max_body_bytes` of its limits is the largest that it takes."""

    def download(self, path: str, target: Path, expected: Expected = Expected()) -> Path:
        """Fetches a file; `target` is it whole, or is what it was before.

        What has arrived when a body breaks off is kept for the next attempt, which requests the rest if the server's answer has
        a validator (a strong ETag) for it.

        Args:
            path: below the base URL; what is put into it from outside must be quoted already.
            target: where it goes, in a folder that is there; replaced if it is there.
            expected: what it has to be.

        Raises:
            FileDiffers: it is something else, also at the last attempt.
            ApiUnavailable: no whole answer within the limits; one that is empty or a page counts as none.
            ApiRefused: the server refuses, redirects to another host, or the file is too large.
            NotStored: it could not be written.
        """
        with _Partial(target) as partial_file:
            call = Call("GET", self._url(path), self._summary("GET", path), headers=partial_file.request_headers())
            self._with_retries(call, partial(self._receive, partial_file=partial_file, expected=expected))
            partial_file.publish()
        return target

    def _receive(
        self, call: Call, response: "requests.Response", *, partial_file: "_Partial", expected: Expected
    ) -> None:
        try:
            self._begin(response, partial_file)
            largest = self._limits.max_body_bytes
            if expected.size is not None:
                largest = min(largest, expected.size)
            while chunk := response.raw.read1(CHUNK_BYTES, decode_content=True):
                if not partial_file.length:
                    refuse_page(chunk, instead_of="the file")
                partial_file.write(chunk)
                if partial_file.length > largest:
                    break
            self._verify(response, partial_file, expected)
        finally:
            call.headers = partial_file.request_headers()

    def _begin(self, response: "requests.Response", partial_file: "_Partial") -> None:
        """Prepare for a body that is the rest of the partial file, or the whole.

        Raises:
            Failed: if it is neither.
        """
        status = response.status_code
        if status == _PART and partial_file.goes_on(response.headers):
            return
        if status in _WHOLE:
            partial_file.restart(response.headers)
            return
        if status not in (_PART, _NO_SUCH_RANGE) or not partial_file.length:
            raise self._refusal(response)
        partial_file.restart({})
        raise Failed(f"answered {status} with no rest of the file", MALFORMED_RULE, status=status)

    def _verify(self, response: "requests.Response", partial_file: "_Partial", expected: Expected) -> None:
        """Raises Failed if the file is not what is expected; nothing of it is of use for another attempt then."""
        status, length, md5 = response.status_code, partial_file.length, partial_file.md5()
        failed: Failed | None = None
        if length > self._limits.max_body_bytes:
            what = f"the file is longer than {self._limits.max_body_bytes} bytes"
            failed = Failed(what, TOO_LONG_RULE, status=status)
        elif not length:
            failed = malformed(status, MalformedAnswer("an empty body"))
        elif expected.size is not None and length != expected.size:
            much = f"more than {expected.size}" if length > expected.size else str(length)
            failed = _Differs("size", f"the file has {much} bytes, and should have {expected.size}", status)
        elif expected.md5 is not None and md5 != expected.md5.lower():
            failed = _Differs("md5", f"the file has the MD5 {md5}, and should have {expected.md5.lower()}", status)
        if failed:
            partial_file.restart({})
            raise failed

    def _explained(self, call: Call, failure: Failed, *, elapsed_s: float) -> ApiUnavailable | ApiRefused:
        explained = super()._explained(call, failure, elapsed_s=elapsed_s)
        assert isinstance(explained, ApiUnavailable | ApiRefused)
        if not isinstance(failure, _Differs):
            return explained
        return FileDiffers(
            str(explained), reason=failure.reason, what=failure.what, status=failure.status, attempts=call.attempts
        )


class _Differs(Failed):
    def __init__(self, reason: Literal["size", "md5"], what: str, status: int) -> None:
        super().__init__(what, _DIFFERS_RULE, status=status)
        self.reason = reason


class _Partial:
    """A partial download, under a name of its own beside the target; removed if it was not published.

    Attributes:
        length: how many bytes.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._path = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")

    def __enter__(self) -> Self:
        with self._disk():
            self._file = self._path.open("xb")
        self._forget({})
        return self

    def __exit__(self, *raised: object) -> None:
        with contextlib.suppress(OSError):  # what could not be written before is not written now
            self._file.close()
        with contextlib.suppress(OSError):  # published, or gone with its folder
            self._path.unlink()

    def restart(self, headers: Mapping[str, str]) -> None:
        """Drops what there is; what comes next is the beginning, of an answer with these headers."""
        with self._disk():
            self._file.seek(0)
            self._file.truncate()
        self._forget(headers)

    def _forget(self, headers: Mapping[str, str]) -> None:
        self.length = 0
        self._digest = hashlib.md5(usedforsecurity=False)
        # A range needs a strong validator: behind a weak one the bytes may differ.
        tag = headers.get("ETag", "")
        self._tag = tag if tag.startswith('"') and not _is_compressed(headers) else ""

    def goes_on(self, headers: Mapping[str, str]) -> bool:
        """Whether an answer with these headers has the rest, from the right byte to the last."""
        matched = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if not matched or not self._tag or headers.get("ETag", self._tag) != self._tag or _is_compressed(headers):
            return False
        first, last, length = map(int, matched.groups())
        return first == self.length and last + 1 == length

    def write(self, chunk: bytes) -> None:
        with self._disk():
            self._file.write(chunk)
        self._digest.update(chunk)
        self.length += len(chunk)

    def md5(self) -> str:
        """Of all bytes, in hexadecimal."""
        return self._digest.hexdigest()

    def request_headers(self) -> dict[str, str]:
        """Headers that request the rest where a range can be validated, otherwise the whole."""
        # Compressed, the bytes of a rest would be others.
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if self.length and self._tag:
            headers |= {"Range": f"bytes={self.length}-", "If-Range": self._tag}
        return headers

    def publish(self) -> None:
        """Puts what there is in the place of the file."""
        with self._disk():
            self._file.close()
            self._path.replace(self._target)

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        """Tells a failure of the disk from one of the network, which has the same class."""
        try:
            yield
        except OSError as error:
            raise NotStored(
                f"{self._target} cannot be written ({error.strerror or error}): free space and make the folder writable"
            ) from None


def _is_compressed(headers: Mapping[str, str]) -> bool:
    return headers.get("Content-Encoding", "identity") != "identity"
