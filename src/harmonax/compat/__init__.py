"""Other programs' calls and names.

harmonypy   `run_harmony` with harmonypy's arguments and result
sklearn     `Harmony`, a scikit-learn transformer
names       what harmonypy and older scripts call our parameters
moved       modules under the names that they had before
"""
