"""What somebody with sqlite3 may do to a journal, each at a random place: `TAMPERING`."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable
from typing import Any, TypeAlias

from ledgers import rechain
from lineside.deliver.chain import SpanSet

Tamper: TypeAlias = Callable[[sqlite3.Connection, random.Random], None]

TAMPERING: list[Tamper] = []
ROW = ("id", "run", "station", "seq", "kind", "late", "keep", "made_ns", "made_wall_ns", "body", "chain")
RUN = ("id", "epoch", "boot", "durable", "started_wall_ns", "previous", "after_row", "was_clean", "breaks", "chain")


def tampering(function: Tamper) -> Tamper:
    TAMPERING.append(function)
    return function


def changed(value: object, chance: random.Random) -> object:
    """Another value of the kind, often only a little different."""
    if isinstance(value, bytes):
        if chance.random() < 0.1:
            return value.decode("latin-1")  # the same bytes, as text
        at = chance.randrange(len(value))
        return value[:at] + bytes([value[at] ^ 1 << chance.randrange(8)]) + value[at + 1 :]
    if isinstance(value, int):
        return chance.choice([value + 1, value - 1, value + 1000, float(value) + 0.5, None, str(value) + "x"])
    if isinstance(value, str):
        return chance.choice([value + " ", value.upper() + "x", "", 3, None])
    return chance.choice([0, 1, "{}", b"x"])


def pick(db: sqlite3.Connection, table: str, chance: random.Random, key: str = "id") -> Any:
    return chance.choice([row[0] for row in db.execute(f"SELECT {key} FROM {table} ORDER BY {key}")])


@tampering
def edit_a_row(db: sqlite3.Connection, chance: random.Random) -> None:
    row, column = pick(db, "row", chance), chance.choice(ROW)
    (value,) = db.execute(f"SELECT {column} FROM row WHERE id = ?", (row,)).fetchone()
    db.execute(f"UPDATE row SET {column} = ? WHERE id = ?", (changed(value, chance), row))


@tampering
def edit_a_run(db: sqlite3.Connection, chance: random.Random) -> None:
    run, column = pick(db, "run", chance), chance.choice(RUN)
    (value,) = db.execute(f"SELECT {column} FROM run WHERE id = ?", (run,)).fetchone()
    db.execute(f"UPDATE run SET {column} = ? WHERE id = ?", (changed(value, chance), run))


@tampering
def edit_whether_a_run_ended_clean(db: sqlite3.Connection, chance: random.Random) -> None:
    db.execute("UPDATE run SET clean = 1 - clean WHERE id = ?", (chance.randrange(1, 4),))


@tampering
def delete_rows(db: sqlite3.Connection, chance: random.Random) -> None:
    row = pick(db, "row", chance)
    db.execute("DELETE FROM row WHERE id BETWEEN ? AND ?", (row, row + chance.choice([0, 0, 3, 60])))


@tampering
def delete_a_run(db: sqlite3.Connection, chance: random.Random) -> None:
    db.execute("DELETE FROM run WHERE id = ?", (pick(db, "run", chance),))


@tampering
def swap_two_rows(db: sqlite3.Connection, chance: random.Random) -> None:
    one, two = chance.sample([row[0] for row in db.execute("SELECT id FROM row ORDER BY id")], 2)
    for row, to in ((one, -1), (two, one), (-1, two)):
        db.execute("UPDATE row SET id = ? WHERE id = ?", (to, row))


@tampering
def swap_two_bodies(db: sqlite3.Connection, chance: random.Random) -> None:
    one, two = (
        db.execute("SELECT id, body FROM row WHERE id = ?", (pick(db, "row", chance),)).fetchone() for _ in "12"
    )
    other = db.execute("SELECT id, body FROM row WHERE id != ? AND body != ? LIMIT 1", one).fetchone()
    two = two if two[1] != one[1] else other
    db.execute("UPDATE row SET body = ? WHERE id = ?", (one[1], two[0]))
    db.execute("UPDATE row SET body = ? WHERE id = ?", (two[1], one[0]))


def copied(db: sqlite3.Connection, row: int, to: int) -> None:
    columns = ", ".join(ROW[1:])
    db.execute(f"INSERT OR REPLACE INTO row (id, {columns}) SELECT ?, {columns} FROM row WHERE id = ?", (to, row))


@tampering
def copy_a_row_to_the_end(db: sqlite3.Connection, chance: random.Random) -> None:
    (last,) = db.execute("SELECT max(id) FROM row").fetchone()
    copied(db, pick(db, "row", chance), last + chance.choice([1, 1, 5]))


@tampering
def copy_a_row_into_a_hole(db: sqlite3.Connection, chance: random.Random) -> None:
    copied(db, pick(db, "row", chance), pick(db, "pruned", chance, "first"))


@tampering
def copy_a_row_over_another(db: sqlite3.Connection, chance: random.Random) -> None:
    rows = [row[0] for row in db.execute("SELECT id FROM row ORDER BY id")]
    copied(db, *chance.sample(rows, 2))


@tampering
def cut_the_end(db: sqlite3.Connection, chance: random.Random) -> None:
    row = pick(db, "row", chance)
    db.execute("DELETE FROM row WHERE id >= ?", (row,))
    db.execute("DELETE FROM run WHERE after_row >= ?", (row,))


@tampering
def cut_the_beginning(db: sqlite3.Connection, chance: random.Random) -> None:
    db.execute("DELETE FROM row WHERE id <= ?", (pick(db, "row", chance),))


@tampering
def edit_a_checkpoint(db: sqlite3.Connection, chance: random.Random) -> None:
    number = pick(db, "checkpoint", chance, "number")
    (document,) = db.execute("SELECT document FROM checkpoint WHERE number = ?", (number,)).fetchone()
    if chance.random() < 0.5:
        fields = json.loads(document)
        name = chance.choice([name for name in fields if not isinstance(fields[name], dict)])
        fields[name] = changed(fields[name], chance) if fields[name] not in (True, False) else not fields[name]
        fields[name] = str(fields[name]) if isinstance(fields[name], bytes) else fields[name]
        document = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    else:
        document = changed(document, chance)
    db.execute("UPDATE checkpoint SET document = ? WHERE number = ?", (document, number))


@tampering
def delete_a_checkpoint(db: sqlite3.Connection, chance: random.Random) -> None:
    numbers = [row[0] for row in db.execute("SELECT number FROM checkpoint ORDER BY number")]
    db.execute("DELETE FROM checkpoint WHERE number = ?", (chance.choice(numbers[1:]),))


@tampering
def renumber_a_checkpoint(db: sqlite3.Connection, chance: random.Random) -> None:
    (last,) = db.execute("SELECT max(number) FROM checkpoint").fetchone()
    db.execute(
        "UPDATE checkpoint SET number = ? WHERE number = ?", (last + 1, pick(db, "checkpoint", chance, "number"))
    )


@tampering
def edit_the_pruned(db: sqlite3.Connection, chance: random.Random) -> None:
    first, column = pick(db, "pruned", chance, "first"), chance.choice(["first", "last", "run", "before", "chain"])
    (value,) = db.execute(f"SELECT {column} FROM pruned WHERE first = ?", (first,)).fetchone()
    new = value + chance.choice([1, -1, 40]) if isinstance(value, int) else changed(value, chance)
    db.execute(f"UPDATE OR REPLACE pruned SET {column} = ? WHERE first = ?", (new, first))


@tampering
def edit_what_is_noted_of_the_pruned(db: sqlite3.Connection, chance: random.Random) -> None:
    column = chance.choice(["rows", "undelivered", "spans", "through"])
    (value,) = db.execute(f"SELECT {column} FROM pruning").fetchone()
    db.execute(f"UPDATE pruning SET {column} = ?", (changed(value, chance) if column == "spans" else value + 1,))


@tampering
def prune_in_secret(db: sqlite3.Connection, chance: random.Random) -> None:
    """Remove a row and list it as pruned, chain and all."""
    chosen = pick(db, "row", chance)
    (before,) = db.execute("SELECT max(chain) FROM row WHERE id = ?", (chosen - 1,)).fetchone()
    row = (chosen, chosen, *db.execute("SELECT run, ?, chain FROM row WHERE id = ?", (before, chosen)).fetchone())
    db.execute("DELETE FROM row WHERE id = ?", row[:1])
    db.execute("INSERT OR REPLACE INTO pruned (first, last, run, before, chain) VALUES (?, ?, ?, ?, ?)", row)
    if chance.random() < 0.7:
        (rows, spans) = db.execute("SELECT rows, spans FROM pruning").fetchone()
        total = SpanSet(spans)
        total.add(row[0], row[1], before, row[4])
        db.execute("UPDATE pruning SET rows = ?, spans = ?", (rows + 1, bytes(total)))


@tampering
def rewrite_with_a_chain_that_fits(db: sqlite3.Connection, chance: random.Random) -> None:
    (signed,) = db.execute("SELECT document FROM checkpoint ORDER BY number DESC LIMIT 1").fetchone()
    rows = db.execute("SELECT id, body FROM row WHERE id <= ?", (json.loads(signed)["row"],)).fetchall()
    row, body = chance.choice(rows)
    db.execute("UPDATE row SET body = ? WHERE id = ?", (body.replace(b'"late"', b'"lete"') + b" ", row))
    rechain(db)


@tampering
def pass_a_row_off_as_an_older_version_s(db: sqlite3.Connection, chance: random.Random) -> None:
    (last,) = db.execute("SELECT max(id) FROM row").fetchone()
    made = db.execute(
        "INSERT INTO run (epoch, boot, durable, started_wall_ns) SELECT epoch, boot, 1, 1 FROM run LIMIT 1"
    )
    copied(db, pick(db, "row", chance), last + 1)
    db.execute("UPDATE row SET chain = NULL, keep = NULL, run = ? WHERE id = ?", (made.lastrowid, last + 1))


@tampering
def change_the_noted_seqs(db: sqlite3.Connection, chance: random.Random) -> None:
    db.execute("UPDATE station SET last_seq = last_seq + ?", (chance.randrange(1, 9),))


@tampering
def add_a_trigger(db: sqlite3.Connection, chance: random.Random) -> None:
    db.execute("CREATE TRIGGER hide AFTER INSERT ON row BEGIN DELETE FROM row WHERE kind = 'decision'; END")
