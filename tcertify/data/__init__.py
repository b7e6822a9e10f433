"""Data sets that certify and train: one file each."""
