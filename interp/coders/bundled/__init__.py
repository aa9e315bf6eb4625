"""The coders that come with the package: how each is trained, what it scores, and how to train it again."""

from interp.coders.bundled.cards import CoderCard as CoderCard
from interp.coders.bundled.cards import read_coder_card as read_coder_card
from interp.coders.bundled.recipes import CODER_RECIPES as CODER_RECIPES
from interp.coders.bundled.recipes import CoderRecipe as CoderRecipe
