"""Lists feature files: one uid per file, or one per dataset of an HDF5 file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from cliploom.schemas.errors import ItemError, SpecError
from cliploom.transforms.precomputed.hdf5_input import dataset_names

ARRAY_SUFFIXES = frozenset({".pt", ".npy", ".npz"})
HDF5_SUFFIXES = frozenset({".h5", ".hdf5", ".hdf"})


class NoGroupError(ItemError):
    """An HDF5 file has no group of the declared name."""


@dataclass(frozen=True)
class FeatureItem:
    """The features of one video.

    Attributes:
        dataset: the name inside an HDF5 file; empty for other files.
    """

    uid: str
    path: Path
    dataset: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.dataset}" if self.dataset else str(self.path)


@dataclass(frozen=True)
class UnlistedFile:
    """An HDF5 file whose datasets cannot be listed."""

    path: Path
    error: ItemError


@dataclass(frozen=True)
class FeatureListing:
    """The result of listing.

    Attributes:
        items: the items, sorted by uid.
        skipped: (suffix, number of files) for files of other kinds, such as the YAML files beside Ego4D's features.
        failed: the files whose uids could not be determined.
    """

    items: tuple[FeatureItem, ...]
    skipped: tuple[tuple[str, int], ...]
    failed: tuple[UnlistedFile, ...]


def list_features(
    paths: Iterable[Path], uid_of: Callable[[Path], str] = lambda path: path.stem, group: str = "/"
) -> FeatureListing:
    """Find the uids in feature files.

    Args:
        paths: the paths of files, of any kind.
        uid_of: a function that returns the uid of a file with a single item.
        group: the group of the datasets in HDF5 files; names are percent-decoded, nested groups become ``a/b``.

    Raises:
        SpecError: two files or datasets have the same uid.
    """
    found: dict[str, FeatureItem] = {}
    skipped: Counter[str] = Counter()
    failed = []
    for path in sorted(paths):
        suffix = path.suffix.lower()
        try:
            if suffix in ARRAY_SUFFIXES:
                items = [FeatureItem(uid_of(path), path)]
            elif suffix in HDF5_SUFFIXES:
                items = list(_datasets(path, group))
            else:
                skipped[suffix] += 1
                continue
        except ItemError as error:
            failed.append(UnlistedFile(path, error))
            continue
        for item in items:
            if item.uid in found:
                raise SpecError(f"'{item.uid}' is the uid of {found[item.uid]} and of {item}; remove one of them.")
            found[item.uid] = item
    ordered = tuple(found[uid] for uid in sorted(found))
    return FeatureListing(ordered, tuple(sorted(skipped.items())), tuple(failed))


def _datasets(path: Path, group: str) -> Iterator[FeatureItem]:
    try:
        for name in dataset_names(path, group):
            yield FeatureItem(unquote(name), path, f"{group.rstrip('/')}/{name}")
    except KeyError:
        raise NoGroupError(
            "read", f"{path} has no group '{group}'; declare the group that holds the datasets."
        ) from None
    except ItemError:
        raise
    except (OSError, RuntimeError, ValueError, TypeError, OverflowError, UnicodeError) as error:
        raise ItemError("read", f"{path} can't be read as HDF5 ({error}).") from error
