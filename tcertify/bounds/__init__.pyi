from .charge import charged_alpha as charged_alpha
from .clopper_pearson import clopper_pearson_lower as clopper_pearson_lower
from .clopper_pearson import clopper_pearson_lower_complement as clopper_pearson_lower_complement
from .clopper_pearson import clopper_pearson_upper as clopper_pearson_upper
from .joint import joint_lower as joint_lower
from .multiclass import multiclass_upper as multiclass_upper
