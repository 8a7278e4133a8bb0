"""What a verification of the ledger found, in words and in numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

MOST = 100  # faults told one by one


@dataclass
class Report:
    """`faults` contradict the chain, a checkpoint or the file; `notes` say what is proved, and what cannot be."""

    journal: str
    rows: int = 0
    first_row: int | None = None
    last_row: int | None = None
    runs: int = 0
    epochs: list[str] = field(default_factory=list)
    pruned: int = 0
    pruned_undelivered: int = 0
    unchained: int = 0  # rows that an older version wrote
    checkpoints: int = 0  # in the store
    signed_row: int | None = None  # the newest row that a checkpoint of the store covers
    signed_at: str | None = None
    outside: int = 0  # checkpoints of --against that speak of this store
    outside_row: int | None = None  # the newest row that one of them covers
    outside_at: str | None = None
    fault_count: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return self.fault_count == 0

    def fault(self, text: str) -> None:
        self.fault_count += 1
        if self.fault_count <= MOST:
            self.faults.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def fields(self) -> dict[str, object]:
        """For --json."""
        return {"clean": self.is_clean, **asdict(self)}

    def lines(self) -> list[str]:
        """For people."""
        span = f", ids {self.first_row} to {self.last_row}" if self.rows else ""
        lines = [
            f"{self.journal}: {self.rows} rows{span}; {self.runs} runs, {len(self.epochs)} epochs; "
            f"{self.checkpoints} checkpoints; {self.pruned} rows pruned, {self.pruned_undelivered} of them undelivered"
        ]
        lines += [f"TAMPERED: {fault}" for fault in self.faults]
        if self.fault_count > MOST:
            lines.append(f"TAMPERED: and {self.fault_count - MOST} faults more")
        lines += [f"note: {note}" for note in self.notes]
        lines.append("clean: nothing contradicts the chain" if self.is_clean else f"{self.fault_count} faults")
        return lines
