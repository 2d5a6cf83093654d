"""The numbers of results.json as the table in the README, so that neither can say what the other does not."""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"


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


def main() -> None:
    """Put the table of the committed results into the README."""
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    results = json.loads((HERE / "results.json").read_text())
    README.write_text(f"{before}{BEGIN}{table(results)}{END}{after}")


if __name__ == "__main__":
    main()
