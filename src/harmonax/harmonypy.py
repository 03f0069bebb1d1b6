"""placeholder"""


def run_harmony():
    """Placeholder."""
