"""The path of a query to the rows of a release: who encodes it, how it gets into the space of the rows."""

from dataclasses import dataclass

import numpy as np

from encoders.basis.files import from_bytes
from encoders.basis.spec import Basis, Space
from storage import bases, releases
from storage.commits import Release
from storage.snapshot import Snapshot


@dataclass(frozen=True)
class QueryPath:
    """Queries are encoded by the encoder of `asked_by`, and by a bridge mapped with `basis`.

    Without a bridge `asked_by` is the release itself and `basis` None. `native` is the space that queries
    are encoded into, in which a cascade ranks.
    """

    release: Release
    asked_by: Release
    basis: Basis | None

    @property
    def native(self) -> Space:
        return space_of(self.asked_by)

    def recall(self, queries: np.ndarray) -> np.ndarray:
        """Native queries (n, d) in the space of the release's rows, float32 (n, dim)."""
        if self.basis is None:
            return queries
        return self.basis.apply(queries, space=self.native, direction="queries")


def path_of(snapshot: Snapshot, release: Release) -> QueryPath:
    """The query path of a release. Raises `Damaged` if its basis is, `NoSuchRelease` if it leads nowhere."""
    if release.through is None:
        return QueryPath(release, release, None)
    if release.basis is None:
        raise ValueError(f"release {release.release} is a bridge without a basis")
    basis = from_bytes(bases.read(snapshot.root, release.basis))
    return QueryPath(release, releases.find(snapshot, release.through), basis)


def space_of(release: Release) -> Space:
    """The space of a release's rows."""
    return Space(release.space_id, release.fingerprint, release.dim)
