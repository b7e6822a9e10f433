"""Training that makes smoothed classifiers certify well: the ADRE risk, standard and adversarial."""
