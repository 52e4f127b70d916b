"""What goes on the page of a sweep besides its records? The known ceilings of the embedded world."""

from collections.abc import Sequence
from pathlib import Path

from crossover.config import CuesData, parse_run
from crossover.data.cues import bayes_accuracy, local_only_accuracy
from crossover.report.build import Ceiling, Report, write_report
from crossover.sweep.records import SweepRecords

CEILING_IMAGES = 5_000
"""Images on which the exact Bayes accuracy is evaluated; its standard error is then about 0.001."""


def report_sweep(
    sweep: SweepRecords, directory: Path, *, also: Sequence[SweepRecords] = (), seed: int = 0, designs: int = 0
) -> Report:
    """Write the report of a sweep into `directory`; the rest as in write_report."""
    data = {record["dataset"]: parse_run(record["config"]).data for record in sweep.records}
    ceilings = {name: cues_ceilings(config) for name, config in data.items() if isinstance(config, CuesData)}
    return write_report(sweep, directory, also=also, seed=seed, ceilings=ceilings, designs=designs)


def cues_ceilings(config: CuesData) -> list[Ceiling]:
    """Return the lowest error with all cues and with the local cue alone."""
    bayes = Ceiling("best possible (exact Bayes)", 1 - bayes_accuracy(config, CEILING_IMAGES))
    if config.alpha == 0 or config.beta == 0:
        return [bayes]
    return [bayes, Ceiling("local cue alone", 1 - local_only_accuracy(config))]
