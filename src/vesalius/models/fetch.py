"""Downloads published checkpoints: resumed, verified, through proxies or from a mirror."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vesalius.core.errors import ModelError, WriteError
from vesalius.core.files import file_digest
from vesalius.models.registry import Entry, cache_folder, entry, model_folder

if TYPE_CHECKING:
    from vesalius.models.convert import Conversion

# Bytes that have arrived, and of how many (None if the server does not say).
Progress = Callable[[int, int | None], None]

# Small, because of a download that breaks off the last incomplete chunk is lost.
CHUNK = 1 << 15
# Seconds without a byte before a server counts as stalled.
TIMEOUT = 60.0


def fetch(
    name: str, folder: str | Path | None = None, mirror: str | None = None, progress: Progress | None = None
) -> Conversion | None:
    """Downloads a model of the registry, verifies it and converts it to a checkpoint.

    The download goes to the cache, where a part that broke off stays and is continued by the next call; it is removed
    once it is converted.

    Args:
        name: Its name in the registry.
        folder: The checkpoint; by default where `vesalius.load_model` finds it.
        mirror: Address of a folder that holds the file, instead of its source.
        progress: Told how much has arrived.

    Returns:
        What was converted, or None if the checkpoint was there already.

    Raises:
        ModelError: The name is unknown, there is no address that serves the file, or what came is not it.
        WriteError: The folder or the cache cannot be written.
    """
    from vesalius.models.convert import convert

    known = entry(name)
    target = model_folder(name) if folder is None else Path(folder)
    if (target / "config.json").exists():
        return None
    url = address(name, known, mirror)
    path = cache_folder() / "downloads" / (known.file or name)
    download(url, path, sha256=known.sha256, md5=known.md5, size=known.size, progress=progress)
    done = convert(path, target, name=name)
    path.unlink(missing_ok=True)
    return done


def address(name: str, known: Entry, mirror: str | None) -> str:
    """Where to download a model's file.

    Raises:
        ModelError: There is no such place; the error says what to do instead.
    """
    if mirror is not None and known.file is not None:
        return f"{mirror.rstrip('/')}/{known.file}"
    if known.url is not None and mirror is None:
        return known.url
    todo = known.how or "the file has no name that a mirror would know it by"
    if known.preset or known.file:
        preset = f" --preset {known.preset}" if known.preset else ""
        todo += f"; then run: vesalius models convert FILE{preset} -o {model_folder(name)}"
    if known.file:
        todo += f" (or give --mirror an address that serves {known.file})"
    raise ModelError(f"{known.title} cannot be downloaded directly; its page is {known.page}", remedy=todo)


def download(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    progress: Progress | None = None,
    timeout: float = TIMEOUT,
) -> None:
    """Downloads a file; what was downloaded before is continued, if the server can and still has the same file.

    The bytes go to ``<path>.part``; ``path`` appears once all is there and verified. Where no digest is known, the
    server's version of the file (its ETag) goes to ``<path>.etag``, and without one a part is not continued. A file
    that is there already and has the known digest is not downloaded again. Proxies are taken from the environment.

    Args:
        url: Where it is.
        path: The file to write.
        sha256: What its SHA-256 must be, in hexadecimal.
        md5: What its MD5 must be, where no better digest is known.
        size: What its size must be, in bytes.
        progress: Told how much has arrived.
        timeout: Seconds without a byte before the server counts as stalled.

    Raises:
        ModelError: The server cannot be reached, refuses, stalls or breaks off, or serves another file. A part that
            may be continued is kept; a whole that is wrong is removed.
        WriteError: The file cannot be written.
    """
    part, tag = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.etag")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        known = sha256 is not None or md5 is not None
        if known and path.is_file() and not _fault(path, sha256, md5, size):
            return
        _transfer(url, part, None if known else tag, size, progress or (lambda *_: None), timeout)
        fault = _fault(part, sha256, md5, size)
        tag.unlink(missing_ok=True)
        if fault:
            part.unlink()
            raise ModelError(
                f"what {url} serves is not the expected file: {fault}", remedy="it was removed; try another mirror"
            )
        part.replace(path)
    except OSError as error:
        raise WriteError(f"the download cannot be written ({error.strerror or error})", path=path) from error


def _transfer(url: str, part: Path, tag: Path | None, size: int | None, progress: Progress, timeout: float) -> None:
    """Brings what is missing of ``part``; ``tag`` keeps the server's version of a file whose digest is not known."""
    import requests

    got = part.stat().st_size if part.is_file() else 0
    # Digests are of the bytes as they are, so they must not come compressed.
    headers = {"Accept-Encoding": "identity"}
    if got and (tag is None or tag.is_file()):
        headers["Range"] = f"bytes={got}-"
        if tag is not None:
            headers["If-Range"] = tag.read_text(encoding="utf-8")
    total: int | None = None
    try:
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as reply:
            partial = "Range" in headers and reply.status_code == requests.codes.partial_content
            if "Range" in headers and reply.status_code == requests.codes.requested_range_not_satisfiable:
                if reply.headers.get("Content-Range") == f"bytes */{got}":
                    return  # all is there already
                part.unlink()
                raise ModelError(
                    f"what was kept is no part of what {url} serves", remedy="it was removed; run it again"
                )
            if reply.status_code != requests.codes.ok and not partial:
                raise ModelError(
                    f"{url} answers {reply.status_code} {reply.reason}", remedy="check the address, or try a mirror"
                )
            if not partial:
                got = 0
            elif not reply.headers.get("Content-Range", "").startswith(f"bytes {got}-"):
                raise ModelError(f"{url} answers with another part than was asked for", remedy="try a mirror")
            length = reply.headers.get("Content-Length")
            total = got + int(length) if length and length.isdigit() else None
            if size is not None and total is not None and total != size:
                raise ModelError(
                    f"{url} serves {total} bytes instead of {size}", remedy="nothing was downloaded; try another mirror"
                )
            if tag is not None:
                etag = reply.headers.get("ETag", "")
                tag.unlink(missing_ok=True)
                if etag and not etag.startswith("W/"):  # a weak one does not promise the same bytes
                    tag.write_text(etag, encoding="utf-8")
            with part.open("ab" if got else "wb") as file:
                for chunk in reply.iter_content(CHUNK):
                    file.write(chunk)
                    got += len(chunk)
                    progress(got, total)
    except (requests.Timeout, requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
        raise ModelError(
            f"the download of {url} {_reason(error, timeout)}",
            remedy=f"{got} bytes{f' of {total}' if total else ''} are kept; run it again to continue",
        ) from error
    except requests.RequestException as error:
        raise ModelError(f"{url} cannot be downloaded ({error})") from error


def _reason(error: Exception, timeout: float) -> str:
    if "timed out" in str(error):
        return f"stalled: not a byte in {timeout:g} seconds"
    return "broke off" if "IncompleteRead" in str(error) else f"failed ({error})"


def _fault(path: Path, sha256: str | None, md5: str | None, size: int | None) -> str:
    """What is wrong with a downloaded file, or nothing."""
    if not path.is_file():
        return "it is empty"
    if size is not None and path.stat().st_size != size:
        return f"it has {path.stat().st_size} bytes instead of {size}"
    for kind, expected in (("sha256", sha256), ("md5", md5)):
        if expected is not None:
            found = file_digest(path, kind)
            if found != expected:
                return f"its {kind} is {found} instead of {expected}"
    return ""
