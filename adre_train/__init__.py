"""Training that makes smoothed classifiers certify well: the ADRE risk and its adversary."""

from adre_train.pgd import pgd as pgd
from adre_train.pgd import smooth_adv as smooth_adv
from adre_train.risk import adre_risk as adre_risk
from adre_train.risk import radius_risk as radius_risk
from adre_train.risk import stability as stability
