"""Views of a store for PyTorch and TensorFlow; each framework is imported only by the function that needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import MissingExtraError
from cliploom.transforms.readers.pair_reading import Pairs
from cliploom.transforms.readers.windows import ClipWindows


class Indexed(Protocol):
    """The interface that both views require: numbered examples, such as ``Pairs`` or ``Moments``."""

    def __len__(self) -> int:
        """Return the number of examples."""
        ...

    def __getitem__(self, index: int) -> Any:
        """Return one example, of arrays."""
        ...


class Moments:
    """Mean features of given moments (uid, t1, t2): ``moments[i]`` is float32 [D]."""

    def __init__(self, windows: ClipWindows, moments: Sequence[tuple[str, float, float]]) -> None:
        self._windows = windows
        # Arrays, not a list of tuples, so that forked workers share the memory.
        self._uids: NDArray[np.str_] = np.array([uid for uid, _, _ in moments], np.str_)
        self._times = np.array([[t1, t2] for _, t1, t2 in moments], np.float64).reshape(-1, 2)

    def __len__(self) -> int:
        """Return the number of moments."""
        return len(self._uids)

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        """Return the mean of one moment's rows.

        Raises:
            IndexError: ``index`` is beyond the last moment.
        """
        t1, t2 = self._times[index].tolist()
        return self._windows.mean(str(self._uids[index]), t1, t2)

    def __getitems__(self, indices: Sequence[int]) -> list[NDArray[np.float32]]:
        """Return the means of several moments, the protocol by which PyTorch requests a batch.

        Raises:
            IndexError: an index is beyond the last moment.
        """
        chosen = np.asarray(indices, np.int64)
        moments = zip(self._uids[chosen].tolist(), self._times[chosen].tolist(), strict=True)
        return [self._windows.mean(uid, t1, t2) for uid, (t1, t2) in moments]


def torch_dataset(examples: Indexed) -> Any:
    """Return a ``torch.utils.data.Dataset`` for ``DataLoader``, whose workers may be forked or spawned.

    Raises:
        MissingExtraError: PyTorch is not installed.
    """
    try:
        from torch.utils.data import Subset
    except ImportError:
        raise MissingExtraError("text", "A PyTorch dataset") from None
    return Subset(examples, range(len(examples)))


def tf_dataset(pairs: Pairs, batch: int, *, shuffle: bool = True, seed: int = 0) -> Any:
    """Return a ``tf.data.Dataset`` of batches (features float32 [B, ...], embeddings float32 [B, E]).

    Args:
        pairs: the pairs of one split.
        batch: the number of pairs per batch; the last batch may be smaller.
        shuffle: whether each pass has another order.
        seed: the seed of the orders.

    Raises:
        MissingExtraError: TensorFlow is not installed.
    """
    try:
        import tensorflow as tf
    except ImportError:
        raise MissingExtraError("tensorflow", "A tf.data view") from None
    numbers = tf.data.Dataset.range(len(pairs))
    if shuffle:
        numbers = numbers.shuffle(len(pairs), seed=seed, reshuffle_each_iteration=True)

    def shaped(indices: Any) -> tuple[Any, Any]:
        features, embeddings = tf.numpy_function(pairs.batch, [indices], (tf.float32, tf.float32))
        return (
            tf.ensure_shape(features, (None, *pairs.feature_shape)),
            tf.ensure_shape(embeddings, (None, pairs.embedding_dim)),
        )

    return numbers.batch(batch).map(shaped, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
