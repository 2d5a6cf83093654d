"""The numbers of results.json as the table in the README, so that neither can say what the other does not."""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
BEGIN, END = "<!-- {}: begin -->\n", "<!-- {}: end -->\n"


def section(readme: str, name: str) -> str:
    """What stands between the marks of a section."""
    _, _, rest = readme.partition(BEGIN.format(name))
    return rest.partition(END.format(name))[0]


def of_the_lake(results: dict[str, Any]) -> str:
    """The storage's section, in Markdown."""
    lake, bounded = results["lake"], results.get("bounded")
    bulk, upsert, reads = lake["bulk"], lake["upsert"], lake["reads_after_upsert"]
    rows = [
        (f"{lake['rows']:,} rows × {lake['dim']}", "bare Parquet + LanceDB", "Evervec", "Delta"),
        ("---", "---:", "---:", "---:"),
        ("bulk commit", *(f"{bulk[k]:.1f} s" for k in ("bare_s", "evervec_s", "delta_s"))),
        (
            f"spread upsert of {lake['upserted']:,} rows",
            *(f"{upsert[k]:.2f} s" for k in ("bare_s", "evervec_s", "delta_s")),
        ),
        *(
            (f"{name}, after the upsert", *(f"{reads[key][k]:.0f} ms" for k in ("bare", "evervec", "delta")))
            for key, name in (
                ("point_ms", "point read in SQL"),
                ("top_10_ms", "exact top 10 in SQL"),
                ("scan_20000_ms", "scan of 20,000 rows with vectors"),
            )
        ),
        ("compaction", "", f"{lake['compaction_s']:.1f} s", f"{lake['delta_compaction_s']:.1f} s"),
        (
            f"a log of {lake['log']['commits']:,} commits: open, `status`",
            "",
            f"{lake['log']['open_s']:.2f} s, {lake['log']['status_s']:.2f} s",
            "",
        ),
    ]
    lines = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    said = (
        f"{lines}\n\nBare and ours sync and hash every file, and index vectors and words; Delta keeps "
        "vectors alone, neither synced nor indexed.\n"
    )
    if bounded is None:
        return said
    took = ", ".join(f"`{name}` {seconds:.0f} s" for name, seconds in bounded["seconds"].items())
    return said + (
        f"\nWith {bounded['limit_mb']:,} MB of private memory a process (but for the first ingest, on Ray"
        f"), on a lake of {bounded['lake_mb']:,} MB ({bounded['rows']:,} × {bounded['dim']}): {took}.\n"
    )


def of_media(results: dict[str, Any]) -> str:
    """The section on images and audio, in Markdown."""
    found, media = results["retrieval"], results["media"]
    rows = [("same label first, in first ten", "built in", "best simple baseline"), ("---", "---:", "---:")]
    for name, what in (
        ("glyphs", "glyphs, in other faces only"),
        ("textures", "textures and colours, in other lights only"),
        ("words", "spoken words, by other voices only"),
        ("events", "other sounds, in other rooms only"),
    ):
        scores = {k: v["others"] for k, v in found[name].items() if isinstance(v, dict)}
        own = next(s for k, s in scores.items() if k.startswith("builtin:"))
        best = max((s for k, s in scores.items() if not k.startswith("builtin:")), key=lambda s: s["top_1"])
        rows.append((what, *(f"{s['top_1']:.2f}, {s['p_at_10']:.2f}" for s in (own, best))))
    images, audio = media["images"], media["audio"]
    rows += [
        ("while encoding", "Evervec", "a bare loop"),
        (
            "images of 1 MP, decoded and encoded",
            f"{images['evervec_per_s']:.0f}/s",
            f"{images['script_per_s']:.0f}/s",
        ),
        (
            "… decoded, on one core",
            *(f"{images['decode_per_core_s'][k]:.0f}/s" for k in ("evervec", "pillow")),
        ),
        ("… encoded, on one core", f"{images['encode_per_core_s']:.0f}/s", ""),
        (
            "seconds of audio (44.1 kHz, stereo), decoded and encoded",
            f"{audio['evervec_per_s']:,}/s",
            f"{audio['script_per_s']:,}/s",
        ),
        (
            "… decoded, on one core",
            *(f"{audio['decode_per_core_s'][k]:,}/s" for k in ("evervec", "soundfile")),
        ),
        ("… encoded, on one core", f"{audio['encode_per_core_s']:,}/s", ""),
    ]
    lines = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    memory, hostile = media["memory"], media["hostile"]
    broken = "; ".join(
        f"among {h['rejected']} broken {name} files {h['encoded']:,} of {h['good']:,} good were encoded, "
        f"taking {abs(h['time_lost']):.1%} {'more' if h['time_lost'] > 0 else 'less'} time"
        for name, h in hostile.items()
    )
    return (
        f"{lines}\n\nThe whole commands took {images['whole_command_s']:.1f} s and "
        f"{audio['whole_command_s']:.1f} s, starting, hashing and committing included. {memory['images']:,} "
        f"such images on two Ray actors take {memory['beyond_idle_mb']:,} MB beyond an idle Ray. Broken "
        f"files: {broken}.\n"
    )


def table(results: dict[str, Any]) -> str:
    """The README's section, in Markdown."""
    small, large = results["ingest"]
    same, search, start, machine = (results[k] for k in ("unchanged", "search", "start", "machine"))
    rows = [
        ("", "the script", "Evervec", ""),
        ("---", "---:", "---:", "---:"),
        *(
            row
            for entry in (small, large)
            for row in (
                (
                    f"{entry['rows']:,} docstrings, whole command",
                    f"{entry['script']['seconds']:.0f} s",
                    f"{entry['evervec']['seconds']:.0f} s",
                    f"{entry['whole_ratio']:.1f} ×",
                ),
                (
                    "… while encoding",
                    f"{entry['script']['docs_per_s_encoding']:.0f} docs/s",
                    f"{entry['evervec']['docs_per_s_encoding']:.0f} docs/s",
                    f"{entry['encode_ratio']:.1f} ×",
                ),
            )
        ),
        (
            "the 3,000 again, 1 % changed and 1 % deleted",
            "",
            f"{small['changed_1_percent']['seconds']:.1f} s",
            "",
        ),
        ("the 3,000 again, nothing changed", "", f"{small['unchanged']['seconds']:.2f} s", ""),
        (
            "200,000 rows, nothing changed (reading and hashing alone)",
            f"{same['listing_and_hashing_bare']['seconds']:.2f} s",
            f"{same['unchanged']['seconds']:.2f} s",
            f"{1 / same['ratio_to_bare']:.1f} ×",
        ),
        *(
            (
                f"search in {int(rows):,} rows, p50 (bare LanceDB query)",
                f"{found['bare_lancedb_ms']['p50']:.1f} ms",
                f"{found['reader_ms']['p50']:.1f} ms",
                f"{1 / found['p50_ratio']:.1f} ×",
            )
            for rows, found in search.items()
        ),
        (
            "`evervec --help`, `evervec status`",
            "",
            f"{start['help']['seconds']:.2f} s, {start['status']['seconds']:.2f} s",
            "",
        ),
    ]
    lines = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return (
        f"{lines}\n\n{machine['date']}, {machine['cores']} cores ({machine['cpu']}), no GPU, Python "
        f"{machine['python']}, all-MiniLM-L6-v2, median text {small['median_tokens']:.0f} tokens.\n"
    )


SECTIONS = {"measured": table, "lake": of_the_lake, "media": of_media}


def main() -> None:
    """Put the table of the committed results into the README."""
    results = json.loads((HERE / "results.json").read_text())
    readme = README.read_text()
    for name, made in SECTIONS.items():
        mark = BEGIN.format(name)
        readme = readme.replace(mark + section(readme, name), mark + made(results))
    README.write_text(readme)


if __name__ == "__main__":
    main()
