from .ray import Ray as Ray
