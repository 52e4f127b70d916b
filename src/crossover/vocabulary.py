"""The names in W&B of what stands for several runs: a curve, a pair, the report of a sweep. A run's are in record."""

from crossover.record import ACCURACY, CONFUSION_TABLE, GPU_SECONDS, HISTORY, N_TRAIN, SAMPLES, SUMMARY

CURVE = {"error_mean": "curve/error", "error_low": "curve/low", "error_high": "curve/high"}
"""Column of curves.csv: metric of the aggregate run of a model, one row per n_train."""
GAP = {
    "log_error_ratio": "gap/log_error_ratio",
    "ci_low": "gap/low",
    "ci_high": "gap/high",
    "accuracy_gap": "gap/accuracy",
}
"""Field of a pair's `gap`: metric of the aggregate run of the pair, one row per n_train."""
EQUIVALENCE = {"factor": "equivalence/factor", "ci_low": "equivalence/low", "ci_high": "equivalence/high"}
VERDICT = ("verdict", "summary", "n_star", "ci_low", "ci_high", "p_in_range", "trend")
"""Fields of a pair that the summary of its aggregate run has."""
PAIR = "pair"
"""Configuration key of a pair's aggregate run."""
TABLE, FIGURES, VERDICTS = "learning_curves", "figures/", "verdicts"
"""What the summary run of a sweep logs: a table, images with this prefix, the verdicts as text."""
CURVE_JOB, PAIR_JOB, REPORT_JOB = "curve", "pair", "report"
"""Job types: the aggregates, and the summary of a sweep."""


def logged_names() -> set[str]:
    """Return every metric that a training or an aggregate run of a finished sweep logs."""
    named = (HISTORY, SUMMARY, CURVE, GAP, EQUIVALENCE)
    metrics = {metric for names in named for metric in names.values()}
    return metrics | {ACCURACY, GPU_SECONDS, N_TRAIN, SAMPLES, CONFUSION_TABLE, *VERDICT}
