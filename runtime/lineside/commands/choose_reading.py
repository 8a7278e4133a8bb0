"""Chooses how a model's outputs are read: the readings in question, one run on pictures, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lineside.commands import judge
from lineside.commands.guess import Guess
from lineside.commands.model_facts import ModelFacts
from lineside.commands.readings import BY_NAMES, Reading
from lineside.commands.try_model import Trial, Tried, run_model, try_reading
from lineside.errors import ConfigError
from lineside.records import DecodeSettings, InputSpec

Prepared = Callable[[Reading], tuple[tuple[str, ...], InputSpec, list[Guess]]]  # labels and input of a reading


def choose(
    facts: ModelFacts, candidates: list[Reading], prepared: Prepared, said: dict[str, Any]
) -> tuple[Tried, list[Guess]]:
    """The one reading that the model's answers to pictures hold up, and all that was guessed on the way.

    Raises ConfigError where none holds, or several that find different things.
    """
    trials: dict[InputSpec, Trial | None] = {}
    holding: list[tuple[Tried, list[Guess]]] = []
    refuted: list[tuple[Reading, str]] = []
    open_error: ConfigError | None = None
    for number, candidate in enumerate(candidates):
        if holding and candidate.rank < holding[0][0].reading.rank >= BY_NAMES:
            break  # what names or metadata tell, and the run holds up, is not weighed against mere shapes
        try:
            labels, input, guesses = prepared(candidate)
            if input not in trials:
                trials[input] = run_model(facts, input)
            trial = trials[input]
            if trial is None:  # an Edge TPU's: nothing here runs it
                return _unrun(candidate, labels, input), guesses
            tried = try_reading(facts, candidate, labels, input, trial, said)
        except ConfigError as error:
            if len(candidates) == 1:
                raise
            open_error = open_error or (error if number == 0 else None)
            refuted.append((candidate, str(error)))
            continue
        if tried.verdict.signs:
            refuted.append((candidate, tried.verdict.signs[0]))
        else:
            holding.append((tried, [*guesses, *tried.guesses]))
    if not holding:
        raise (
            open_error
            if open_error and all(why == str(open_error) for _, why in refuted)
            else _none_holds(facts, refuted)
        )
    tried, guesses = _only(facts, holding)
    return tried, guesses


def _unrun(reading: Reading, labels: tuple[str, ...], input: InputSpec) -> Tried:
    return Tried(reading, labels, input, reading.settings, judge.Verdict((), ()))


def _only(facts: ModelFacts, holding: list[tuple[Tried, list[Guess]]]) -> tuple[Tried, list[Guess]]:
    """The one that holds, or one of several that find the same: of equal heads the surer one."""
    best, *others = holding
    rivals = [each for each in others if each[0].reading.rank == best[0].reading.rank]
    listed = [each for each in holding if each[0].reading.decode in judge.LISTED and each[0].verdict.found]
    if len(listed) == 1 and not any(each[0].settings.outputs for each in holding):
        return listed[
            0
        ]  # whole class numbers and boxes in order in every row: no other family's outputs are so by chance
    if not rivals:
        return best
    if all(_same(best[0], each) for each, _ in rivals):
        if best[0].settings.outputs:
            # equal heads: YOLOv9's main branch is the second one, so it stands before the other where they are level
            sure = max(reversed([best, *rivals]), key=lambda each: round(judge.sureness(each[0].verdict), 3))
            names = ", ".join(each[0].settings.outputs[0] for each in (best, *rivals))
            why = f"{names} find the same in the test pictures; this one is as sure as any"
            return sure[0], [*sure[1], Guess(f"outputs = {sure[0].settings.outputs[0]}", why, "--outputs")]
        names = ", ".join(each.reading.decode for each, _ in rivals if each.reading.decode != best[0].reading.decode)
        if names:
            return best[0], [*best[1], Guess(f"not {names}", "it finds the same in the test pictures", "--decode")]
        return best
    raise _ambiguous(facts, [each for each, _ in (best, *rivals)])


def _same(first: Tried, second: Tried) -> bool:
    if judge.agree(first.verdict, second.verdict):
        return True
    # both find nothing, and read the same numbers the same way
    return first.reading.decode == second.reading.decode and first.settings == second.settings


def _ambiguous(facts: ModelFacts, holding: list[Tried]) -> ConfigError:
    if holding[0].settings.outputs:
        ways = [f"--outputs {each.settings.outputs[0]} ({each.reading.decode}, {_count(each)})" for each in holding]
    else:
        ways = [f"--decode {each.reading.decode} ({_count(each)})" for each in holding]
    return ConfigError(
        f"{facts.path}: its outputs can be read in {len(ways)} ways that find different things in test pictures, and "
        "nothing "
        f"in the file tells which is right: {', '.join(ways)}"
    )


def _count(tried: Tried) -> str:
    found = tried.verdict.found
    return f"finds {found} things in {len(tried.verdict.seen)} pictures"


def _none_holds(facts: ModelFacts, refuted: list[tuple[Reading, str]]) -> ConfigError:
    told = []
    for reading, why in refuted:
        which = f" of {reading.settings.outputs[0]}" if reading.settings.outputs else ""
        line = f"read as {reading.decode}{which}: {why}"
        if line not in told:
            told.append(line)
    return ConfigError(
        f"{facts.path}: on test pictures no reading of its outputs holds: {'; '.join(told)}: say how it was made: "
        "--mean, "
        "--std and --color as it was trained, --decode, --box-format, --boxes, --scores, --outputs"
    )


def check(facts: ModelFacts, tried: Tried, settings: DecodeSettings, input: InputSpec) -> Guess | None:
    """Of one more file of the same model: raises ConfigError where the reading does not hold up on it, too."""
    trial = run_model(facts, input)
    if trial is None:
        why = "no runtime here could run it once"
        return Guess(f"that {facts.path.name} fits", why, "running it on its own device")
    verdict = judge.judge(tried.reading.decode, trial.outputs, tried.labels, input, settings, trial.shots)
    if verdict.signs:
        raise ConfigError(f"{facts.path}: on test pictures, read as {tried.reading.decode}: {verdict.signs[0]}")
    return None
