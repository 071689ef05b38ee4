"""What a recipe may say: one frozen model per section, unknown keys refused.

Every other room receives its own section; only train, the commands and launch see a whole Recipe.
"""

from unicscale.recipe.sections.around import DryRun, Evaluate, Save, Track, Wandb
from unicscale.recipe.sections.base import DURATION, DURATIONS, Count, NonNegative, Positive, Section, Unit, one_line
from unicscale.recipe.sections.data import COLOURS, Augment, Channels, Data, Source
from unicscale.recipe.sections.engine import EngineSection, Offload, Shares
from unicscale.recipe.sections.launch import Launch
from unicscale.recipe.sections.models import (
    MLP,
    SHORT_NAMES,
    Ladder,
    NoProjector,
    Projector,
    Student,
    TeacherSection,
    TransformerProjector,
)
from unicscale.recipe.sections.objective import (
    AdaLoss,
    Balance,
    LossSection,
    ManualWeights,
    NoBalance,
    OwnData,
    OwnLoss,
    RandomTeacher,
    Relation,
    Standardize,
    SummaryTerms,
    TeacherDropping,
    Terms,
    TokenWeights,
)
from unicscale.recipe.sections.recipe import Recipe
from unicscale.recipe.sections.stages import LearningRate, Stage

__all__ = [
    "COLOURS",
    "DURATION",
    "DURATIONS",
    "MLP",
    "SHORT_NAMES",
    "AdaLoss",
    "Augment",
    "Balance",
    "Channels",
    "Count",
    "Data",
    "DryRun",
    "EngineSection",
    "Evaluate",
    "Ladder",
    "Launch",
    "LearningRate",
    "LossSection",
    "ManualWeights",
    "NoBalance",
    "NoProjector",
    "NonNegative",
    "Offload",
    "OwnData",
    "OwnLoss",
    "Positive",
    "Projector",
    "RandomTeacher",
    "Recipe",
    "Relation",
    "Save",
    "Section",
    "Shares",
    "Source",
    "Stage",
    "Standardize",
    "Student",
    "SummaryTerms",
    "TeacherDropping",
    "TeacherSection",
    "Terms",
    "TokenWeights",
    "Track",
    "TransformerProjector",
    "Unit",
    "Wandb",
    "one_line",
]
