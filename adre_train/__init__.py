"""Training that makes smoothed classifiers certify well: the ADRE risk and its adversary."""
