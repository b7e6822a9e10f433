"""Label groups: what the votes say when some classes need not be told apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tcertify._checks import check_whole, check_whole_array


@dataclass(frozen=True, eq=False)
class Groups:
    """Disjoint groups of classes, fixed before any vote is seen.

    A group's votes are the sum of its classes' votes: they are the votes of the classifier that
    answers the group instead of the class. So every bound, and every guarantee, is that of this
    classifier. Groups chosen after a look at the votes have no guarantee.

    Attributes
    ----------
    names : tuple of str
        What the new labels 0, 1, ... mean: the groups in their order, then every other class.
    index : array of int64, shape (C,)
        New label of each class.
    """

    names: tuple[str, ...]
    index: NDArray[np.int64]

    @classmethod
    def of(cls, groups: Mapping[str, Sequence[int]], num_classes: int) -> Groups:
        """Return the groups after a check.

        Parameters
        ----------
        groups : mapping from names to classes
            ``{"animals": [2, 3, 4, 5, 6, 7]}``; a class in no group stays by itself.
        num_classes : int

        Raises
        ------
        ValueError
            A group without a class, a class that does not exist or is named twice, or groups that
            leave a single label.

        Examples
        --------
        >>> groups = Groups.of({"animals": [2, 3]}, 5)
        >>> groups.names, groups.index
        (('animals', '0', '1', '4'), array([1, 2, 0, 0, 3]))
        >>> groups.votes([[10, 0, 40, 45, 5]])
        array([[85, 10,  0,  5]])
        """
        num_classes = check_whole("num_classes", num_classes, minimum=2)
        index = np.full(num_classes, -1, dtype=np.int64)
        for new, (name, classes) in enumerate(groups.items()):
            if not len(classes):
                raise ValueError(f"`groups` must name at least one class in {name}, got none.")
            for value in classes:
                one = _checked_class(value, num_classes, name)
                if index[one] >= 0:
                    raise ValueError(
                        f"`groups` must not overlap, got class {one} in"
                        f" {[*groups][index[one]]} and {name}."
                    )
                index[one] = new
        alone = np.flatnonzero(index < 0)
        index[alone] = len(groups) + np.arange(len(alone))
        names = (*groups, *(str(one) for one in alone))
        if len(names) < 2:
            raise ValueError("`groups` must leave at least 2 labels, got one group of all classes.")
        return cls(names, index)

    def __len__(self) -> int:
        return len(self.names)

    def votes(self, counts: ArrayLike) -> NDArray[np.int64]:
        """Sum counts of shape (..., C) to shape (..., len(self)): those of either sample."""
        votes = check_whole_array("counts", counts)
        if votes.ndim == 0 or votes.shape[-1] != len(self.index):
            raise ValueError(
                f"`counts` must have {len(self.index)} classes, got shape {votes.shape}."
            )
        summed = np.zeros((*votes.shape[:-1], len(self)), dtype=np.int64)
        for one, new in enumerate(self.index):
            summed[..., new] += votes[..., one]
        return summed

    def labels(self, labels: ArrayLike) -> NDArray[np.int64]:
        """The new label of each label."""
        return self.index[check_whole_array("labels", labels, maximum=len(self.index) - 1)]


def _checked_class(value: int, num_classes: int, name: str) -> int:
    try:
        return check_whole("groups", value, minimum=0, maximum=num_classes - 1)
    except ValueError:
        raise ValueError(
            f"`groups` must name classes from 0 to {num_classes - 1}, got {value!r} in {name}."
        ) from None


def parse_groups(texts: Iterable[str]) -> dict[str, list[int]]:
    """Return the groups that texts like ``animals=2,3,4`` describe.

    Raises
    ------
    ValueError
        A text of another form, or a name that comes twice.

    Examples
    --------
    >>> parse_groups(["animals=2,3", "rest=0,1"])
    {'animals': [2, 3], 'rest': [0, 1]}
    """
    groups: dict[str, list[int]] = {}
    for text in texts:
        name, _, classes = text.partition("=")
        try:
            members = [int(one) for one in classes.split(",")]
        except ValueError:
            members = []
        if not (name and members):
            raise ValueError(f"`groups` must be like animals=2,3,4, got {text!r}.")
        if name in groups:
            raise ValueError(f"`groups` must have different names, got {name} twice.")
        groups[name] = members
    return groups
