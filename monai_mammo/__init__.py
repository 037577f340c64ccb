"""Mammograms in MONAI."""
