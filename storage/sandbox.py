"""The locked door of the SQL surface: what DuckDB may read, and which statements it is given at all."""

import json
from typing import Any

import duckdb

from storage.errors import QueryRefused
from storage.places import Place

TIME_LIMIT_SECONDS = 600
MEMORY_LIMIT = "50%"

_BEGINNINGS = (b"SELECT", b"WITH", b"FROM", b"VALUES", b"(")
_READING_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}


def lock_down(connection: Any, lake: Place) -> None:
    """What is set here cannot be undone by a query: DuckDB refuses any change after `lock_configuration`."""
    folder = str(lake).replace("'", "''")
    for setting in (
        "python_enable_replacements = false",  # else FROM reads variables of the calling program
        "allow_community_extensions = false",
        "autoload_known_extensions = false",
        f"memory_limit = '{MEMORY_LIMIT}'",
        f"max_execution_time = {TIME_LIMIT_SECONDS * 1000}",
        f"allowed_directories = ['{folder}/']",
        "temp_directory = ''",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        connection.execute(f"SET {setting}")


def require_read_only(connection: Any, query: str) -> None:
    """Raise `QueryRefused` unless `query` is one SELECT, or an EXPLAIN of one, through and through.

    The statement's type is not enough: a WITH clause may insert or copy to files and still be a
    SELECT (DuckDB 2.0), and EXPLAIN ANALYZE runs what it explains.
    """
    try:
        statements = connection.extract_statements(query)
        if len(statements) != 1:
            raise QueryRefused(f"expected one statement, got {len(statements)}; run them one by one")
        kind = statements[0].type
        if kind == duckdb.StatementType.EXPLAIN:
            return require_read_only(connection, _explained(query))
        if kind != duckdb.StatementType.SELECT:
            name = str(kind).rpartition(".")[2]
            raise QueryRefused(f"the lake is read-only in SQL: expected SELECT or EXPLAIN, got {name}")
        tree = json.loads(connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()[0][0])
    except duckdb.Error as error:
        raise QueryRefused(without_trace(str(error))) from None
    except ValueError as error:  # a type of statement that the client library has no name for
        raise QueryRefused(f"the lake is read-only in SQL: expected SELECT or EXPLAIN ({error})") from None
    strange = sorted(_node_types(tree) - _READING_NODES)
    if strange or tree.get("error"):
        what = ", ".join(strange) or tree.get("error_message")
        raise QueryRefused(f"the lake is read-only in SQL: expected SELECT or EXPLAIN, got {what}")
    return None


def _explained(query: str) -> str:
    """What an EXPLAIN explains: the text behind EXPLAIN, ANALYZE and options in brackets."""
    raw = query.encode()  # the tokenizer counts bytes
    starts = [at for at, kind in duckdb.tokenize(query) if kind != duckdb.token_type.comment]
    heads = [raw[at : at + len("ANALYZE")].upper() for at in starts]
    inner = 1
    if heads[inner : inner + 1] == [b"ANALYZE"]:
        inner += 1
    bracket = heads[inner : inner + 1] and heads[inner].startswith(b"(")
    if bracket and not b"".join(heads[inner + 1 : inner + 2]).startswith(
        _BEGINNINGS
    ):  # of a query, not options
        inner += next((n for n, head in enumerate(heads[inner:], start=1) if head.startswith(b")")), 0)
    return raw[starts[inner] :].decode() if inner < len(starts) else ""


def _node_types(tree: Any) -> set[str]:
    """Types of all query nodes in a serialized statement."""
    if isinstance(tree, list):
        return set().union(*map(_node_types, tree)) if tree else set()
    if not isinstance(tree, dict):
        return set()
    own = tree.get("type")
    found = {own} if isinstance(own, str) and own.endswith("_NODE") else set()
    return found.union(*map(_node_types, tree.values()))


def without_trace(message: str) -> str:
    """DuckDB's message; of an error in one of our functions what that says, not how it was called."""
    _, of_ours, said = message.partition("executing the UDF: ")
    if of_ours:
        return said.partition(": ")[2] or said
    if "Traceback" in message:
        return message.strip().splitlines()[-1]
    return message
