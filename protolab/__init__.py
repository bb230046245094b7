"Networks that explain themselves by examples. `from protolab import *` gives the public names of every room but the command's; a room is imported when it is first needed."
__version__ = "0.0.1"

from importlib import import_module as _import_module

ROOMS = ("core", "birds", "data", "show", "backbone", "prototypes", "model", "loss", "seeding", "train", "project",
         "last_layer", "explain", "gallery", "wall", "explore", "why", "film", "versus", "truth", "lint", "tied", "street",
         "metrics", "intervene", "locate", "diverse", "collide", "card", "ingredients", "prune", "edit", "board", "confound", "augment", "cache", "cub", "sources", "legacy", "paper",
         "compare", "runs", "cli")


def __getattr__(name):
    if name in ROOMS: return _import_module(f"{__name__}.{name}")
    if name.startswith("_") and name != "__all__": raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    rooms = [_import_module(f"{__name__}.{room}") for room in ROOMS if room != "cli"]
    if name == "__all__": return [public for room in rooms for public in room.__all__]
    for room in rooms:
        if name in room.__all__: return getattr(room, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
