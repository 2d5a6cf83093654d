"""A project: where the lake lies, which encoders there are, which collections are kept."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, StringConstraints, model_validator

from encoders.files import HashCache
from encoders.spec import ChunkSpec, EncoderSpec, Modality
from storage import places
from storage.places import Place
from storage.remote import Remote
from storage.schemas import ITEM_COLUMNS, SHOWN_COLUMNS, VECTOR_COLUMNS, VIEW_SUFFIXES
from storage.verified import Verified
from tasks.errors import NothingThere

RESERVED = frozenset((*ITEM_COLUMNS, *VECTOR_COLUMNS, "space_id")) - {"media"}
"""Names that the SQL views have already, and so no attribute can bear."""

RESERVED_OF_MEDIA = frozenset(("media", *SHOWN_COLUMNS))
"""The same where the items are images or audio."""

INDEX_OWN = frozenset(
    (
        "_distance",
        "_score",
        "_relevance_score",
        "_rowid",
        "_rowaddr",
        "_rowoffset",
        "_row_created_at_version",
        "_row_last_updated_at_version",
    )
)
"""Names that LanceDB gives to columns of its own."""

CollectionName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=63)]


def _as_place(given: object) -> Place:
    if isinstance(given, str):
        return places.parse(given)
    if isinstance(given, Path | Remote):
        return given
    raise ValueError(f"expected a folder or s3://bucket/prefix, got {given!r}")


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


INCLUDED: dict[Modality, tuple[str, ...]] = {
    "text": ("*.md", "*.txt"),
    "image": ("*.jpg", "*.jpeg", "*.jfif", "*.png", "*.webp", "*.gif", "*.bmp", "*.tif", "*.tiff", "*.avif"),
    "audio": ("*.wav", "*.flac", "*.ogg", "*.oga", "*.opus", "*.mp3", "*.aif", "*.aiff", "*.caf"),
}
"""Files that are taken of a folder, if the configuration does not say which; in small and large letters."""


class FilesSource(_Settings):
    """Files below a folder; an item's id is its path relative to the folder.

    `include` and `exclude` are patterns as in .gitignore files. Left out, `include` is what usually ends
    the names of files of the collection's modality.
    """

    kind: Literal["files"]
    path: Path
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()


class TableSource(_Settings):
    """A Parquet, CSV or JSONL file with an id column, a content column, and columns kept as attributes.

    The content is in the column `text`, or for images and audio in `media`: paths of files in the folder
    `root` (left out: the table's), or, in a Parquet file, their bytes (`image.bytes` is a field of a
    struct).
    """

    kind: Literal["table"]
    path: Path
    id: str
    text: str | None = None
    media: str | None = None
    root: Path | None = None
    attributes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _has_one_content(self) -> "TableSource":
        if (self.text is None) == (self.media is None):
            raise ValueError("a table needs `text:` (a column of texts) or `media:` (of paths or bytes)")
        if self.root is not None and self.media is None:
            raise ValueError("`root:` is where the files of a `media:` column lie; a `text:` column has none")
        return self


class DocstringsSource(_Settings):
    """Docstrings of the installed Python: of `packages`, or of the whole standard library."""

    kind: Literal["docstrings"]
    packages: tuple[str, ...] = ()


Source = Annotated[FilesSource | TableSource | DocstringsSource, Field(discriminator="kind")]


class Resources(_Settings):
    """What the encoders of a collection may take: Ray actors, and GPUs (or shares) for each.

    Left out, small runs encode in the process of the command; large ones on one actor a core, or one a
    GPU where Ray has any. Asked-for actors are started for all but the smallest runs.
    """

    actors: int | None = Field(default=None, ge=1)
    gpus_per_actor: float | None = Field(default=None, ge=0)


class Retain(_Settings):
    """What `maintain` keeps: versions of the last `days`, and `releases` earlier ones beside the live."""

    days: float = Field(default=14, ge=0)
    releases: int = Field(default=1, ge=0)


class Searches(_Settings):
    """What a search may leave in the lake: vectors that a cascade encoded, ids of what was asked for."""

    keep_vectors: bool = True
    note_candidates: bool = False


class Collection(_Settings):
    """A named set of items with a source, a chunking and an encoder.

    A collection that is only imported has no source, and no encoder where none is at hand. An upgrade that
    closes less than `min_gap_closed` of the way to a full recompute is not worth its while; what an hour of
    encoding costs is `price_per_hour`.
    """

    source: Source | None = None
    encoder: str | None = None
    modality: Modality | None = None
    chunk: ChunkSpec = ChunkSpec()
    resources: Resources = Resources()
    max_deleted: float = Field(default=0.2, ge=0, le=1)
    retain: Retain = Retain()
    searches: Searches = Searches()
    min_gap_closed: float = Field(default=0.5, ge=0, le=1)
    price_per_hour: float | None = Field(default=None, ge=0)


class Project(_Settings):
    """`evervec.yaml`, checked, its paths absolute."""

    root: Path
    lake: Annotated[Place, PlainValidator(_as_place)]
    encoders: dict[str, EncoderSpec] = Field(min_length=1)
    collections: dict[CollectionName, Collection]
    ray_address: str | None = None

    @model_validator(mode="after")
    def _sources_have_encoders(self) -> "Project":
        for name, collection in self.collections.items():
            if collection.source is not None and collection.encoder is None:
                raise ValueError(f"collection {name!r} has a source but no `encoder:` to encode it with")
        return self

    @model_validator(mode="after")
    def _encoders_exist(self) -> "Project":
        for name, collection in self.collections.items():
            if collection.encoder is None:
                continue
            if collection.encoder not in self.encoders:
                raise ValueError(
                    f"collection {name!r} uses encoder {collection.encoder!r}, which is not under "
                    f"`encoders:`; there are: {', '.join(self.encoders)}"
                )
            modality = self.encoders[collection.encoder].modality
            if collection.modality not in (None, modality):
                raise ValueError(
                    f"collection {name!r} is {collection.modality}, its encoder "
                    f"{collection.encoder!r} is for {modality}"
                )
            _require_source_of(name, collection, modality)
        return self

    def modality(self, name: str) -> Modality:
        """What the items of a collection are."""
        collection = self.collection(name)
        if collection.encoder is not None:
            return self.encoders[collection.encoder].modality
        return collection.modality or "text"

    @model_validator(mode="after")
    def _names_are_apart(self) -> "Project":
        if "index" in self.collections:
            raise ValueError("collection 'index' has the name of the lake's index folder; rename it")
        for name, collection in self.collections.items():
            for suffix in VIEW_SUFFIXES:
                if name + suffix in self.collections:
                    raise ValueError(
                        f"collection {name + suffix!r} is named like a view of {name!r}; rename it"
                    )
            attributes = getattr(collection.source, "attributes", ())
            if len({a.lower() for a in attributes}) < len(attributes):
                raise ValueError(f"collection {name!r}: two attributes have one name (SQL knows no case)")
            unfit = [a for a in attributes if not a or a in INDEX_OWN or set(a) & set(".`")]
            if unfit:
                raise ValueError(
                    f"collection {name!r}: attribute {unfit[0]!r} cannot be an index column; rename that "
                    "column to one without dots and backticks that LanceDB does not use itself"
                )
            encoder = self.encoders.get(collection.encoder or "")
            reserved = (
                RESERVED if encoder is None or encoder.modality == "text" else RESERVED | RESERVED_OF_MEDIA
            )
            taken = [a for a in attributes if a.lower() in reserved]
            if taken:
                raise ValueError(
                    f"collection {name!r}: every collection has a column {taken[0]!r} already; rename yours. "
                    f"Taken are: {', '.join(sorted(reserved))}"
                )
        return self

    def collection(self, name: str) -> Collection:
        """The settings of a collection; `NothingThere` lists those that exist."""
        if name not in self.collections:
            known = ", ".join(self.collections) or "none"
            raise NothingThere(f"no collection {name!r} in evervec.yaml; there are: {known}")
        return self.collections[name]

    def verified(self) -> Verified:
        """Files of the lake that this machine has found to be whole, in `.evervec/` too."""
        return Verified(self.root / ".evervec" / "verified.json")

    def page(self, name: str) -> Path:
        """The page that `search --open` wrote last of a collection."""
        return self.root / ".evervec" / f"search-{name}.html"

    def hashes(self) -> HashCache:
        """Remembered hashes of model files, in `.evervec/` beside the configuration."""
        return HashCache(self.root / ".evervec" / "hashes.json")


def _require_source_of(name: str, collection: Collection, modality: Modality) -> None:
    """Raise `ValueError` unless source and chunking of a collection are of its modality."""
    source = collection.source
    if isinstance(source, TableSource) and (source.text is None) == (modality == "text"):
        given, wanted = ("media", "text") if modality == "text" else ("text", "media")
        raise ValueError(f"collection {name!r} is {modality}: its table needs `{wanted}:`, not `{given}:`")
    if isinstance(source, DocstringsSource) and modality != "text":
        raise ValueError(f"collection {name!r} is {modality}, but docstrings are texts")
    try:
        collection.chunk.require_fitting(modality)
    except ValueError as error:
        raise ValueError(f"collection {name!r}: {error}") from None
