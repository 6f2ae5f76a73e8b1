"""A kind of source for cliploom: the images inside WebDataset tars; the key of a sample is its uid."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from cliploom.sources import (
    INSIDE,
    Failure,
    ItemError,
    KnownListing,
    ListContext,
    Listed,
    MediaItems,
    SourceNode,
    clean_uid,
    find,
    listed_frame,
    open_input,
    unlisted,
)

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp")


class Webdataset(SourceNode):
    """What a spec may say: ``{kind: webdataset, glob: "shards/*.tar"}``.

    Attributes:
        glob: uncompressed tars, as a pattern relative to the spec's folder or a URI.
        max_bytes: size of the largest image that is read.
    """

    glob: str
    max_bytes: int = 64_000_000


class WebdatasetKind(MediaItems[Webdataset]):
    """Gives each image of a tar as an item; cliploom probes, decodes and samples it as it does with files."""

    Node = Webdataset

    def list_items(self, node: Webdataset, context: ListContext) -> KnownListing:
        """List the images of all tars. An image's signature is that of its tar, then its place in the tar."""
        items: list[Listed] = []
        failures: list[Failure] = []
        for tar in find(node.glob, context.base, f"{context.place}.glob"):
            try:
                with open_input(tar.uri, tar.signature, "list") as path, tarfile.open(path, "r:") as file:
                    images = [member for member in file if _is_image(PurePosixPath(member.name))]
            except (ItemError, tarfile.TarError, OSError, ValueError) as error:
                reason = (
                    error if isinstance(error, ItemError) else ItemError("list", f"{tar.uri} is not a tar ({error}).")
                )
                failures.append(unlisted(context.name, tar.relative, tar.uri, reason))
                continue
            for image in images:
                name = PurePosixPath(clean_uid(image.name))
                uri = f"{tar.uri}{INSIDE}{name}"
                plain = image.isreg() and not image.issparse() and ".." not in name.parts and INSIDE not in str(name)
                if not plain or image.size > node.max_bytes:
                    refused = ItemError("list", f"{uri} is not a plain file of at most {node.max_bytes} bytes.")
                    failures.append(unlisted(context.name, str(name), uri, refused))
                    continue
                uid = str(name.with_name(name.name.split(".")[0])).lstrip("/")
                signature = f"{tar.signature}@{image.offset_data}+{image.size}"
                items.append(Listed(context.name, uid, uri, image.size, signature))
        return KnownListing(listed_frame(sorted(items, key=lambda item: item.uid)), tuple(failures))

    @contextmanager
    def open_item(self, uri: str, signature: str, stage: str, settings: str, digest: str = "") -> Iterator[Path]:
        """Copy one image out of its tar into a temporary file."""
        tar, _, name = uri.rpartition(INSIDE)
        version, _, place = signature.rpartition("@")
        offset, size = map(int, place.split("+"))
        with tempfile.NamedTemporaryFile(suffix=PurePosixPath(name).suffix) as copy:
            with open_input(tar, version, stage) as path, path.open("rb") as file:
                file.seek(offset)
                copy.write(file.read(size))
            copy.flush()
            yield Path(copy.name)


def _is_image(name: PurePosixPath) -> bool:
    return name.suffix.lower() in SUFFIXES and not name.name.startswith(".")
