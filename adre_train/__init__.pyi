from .attack import pgd as pgd
from .attack import smooth_adv as smooth_adv
from .recipe import Recipe as Recipe
from .risk import adre_risk as adre_risk
from .risk import radius_risk as radius_risk
from .risk import signed_radius_risk as signed_radius_risk
from .risk import stability as stability
